"""Initial weights as in the MAE paper's appendix and code."""

from __future__ import annotations

from torch import nn


def mae_init(module: nn.Module) -> None:
    """Xavier-uniform linears and patch projection (seen as a linear layer), zero biases, plain norms, tokens normal(0, .02).

    Position tables are left alone when they are fixed; a learned one is drawn like the tokens.
    Source: He et al. 2021, appendix A.1 and B.
    """
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_uniform_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.Conv2d):  # the patch projection: fan-in and fan-out of the flattened matrix
            nn.init.xavier_uniform_(child.weight.view(child.weight.shape[0], -1))
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.LayerNorm):
            if child.weight is not None:
                nn.init.ones_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
    for name, parameter in module.named_parameters():
        if name.endswith(("cls_token", "reg_token", "mask_token", "pos_embed")) and parameter.requires_grad:
            nn.init.normal_(parameter, std=0.02)
