"""What sources share: files, tables, words, masks, indexes; no format of its own."""
