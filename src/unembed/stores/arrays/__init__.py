"""Vectors in arrays: .npy, .npz, .safetensors, HDF5, .fvecs and .bvecs."""
