"""What the scores mean: text metrics, cosine and its floor, bootstrap intervals. Pure numpy, one name for one thing.

- `text`: token_accuracy, masked_token_accuracy, token_f1, exact_match, edit_similarity, rouge_l, length_error, bleu.
- `cosine`: cosine of pairs, of random pairs (the floor), of the nearest row of a bank.
- `bootstrap`: a statistic over texts with its 95% interval.
"""
