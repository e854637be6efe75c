"""What is known of a text beforehand, as rules on token ids."""
