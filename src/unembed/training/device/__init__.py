"""Training with everything on the device: the host only launches, and nothing that it waits for comes back in a step.

For a GPU. A batch of a few thousand texts is over in a tenth of a second there, so that each value which the host reads
first, each shape that a compiler has not seen, and each launch of a small kernel shows. So, in the order of a step:

    corpus.py       tokens of all texts on the device; an epoch is drawn there, cropped at word boundaries, and cut into
                    batches of one width (bucket) and one size. The host reads one count a bucket for it.
    resident.py     the encoder on ids, the vectors of all texts where memory allows, which of them the priors were
                    fitted on, and the pass over all texts that they are fitted with.
    device_rows.py  what a batch is asked: its first texts left to right, the others masked, on one canvas of n + 1.
    columns.py      columns of the softmax: a fixed number, the batch's own tokens among them; the token prior as a few
                    more columns of a matrix product, corrected where a text's own tokens are.
    kernels.py      the three functions that are compiled: a block, a chunk of the head (linear layer and cross-entropy
                    in one), a layer of the encoder.
    device_step.py  the loss, put together from these.

Every shape depends on the bucket alone: each of the three functions is compiled once a bucket, however deep the network
is. It learns what `StepLoss` (`denoiser_task.py`) learns, to rounding (tests/unit/test_device_step.py): that path pads
nothing, draws on the host, and is the faster one on a CPU. `training/tasks/device_task.py` puts this one into the loop.
"""
