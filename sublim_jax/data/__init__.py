"""Image data sets of the MNIST family from IDX files, prepared TFDS data, a download, or the package itself."""

from sublim_jax.data.load import Dataset as Dataset
from sublim_jax.data.load import import_tfds as import_tfds
from sublim_jax.data.load import load_dataset as load_dataset
from sublim_jax.data.load import with_extra_images as with_extra_images
