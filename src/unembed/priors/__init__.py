"""What is known in closed form: whitening, class sums, priors of tokens and lengths, how vectors look."""
