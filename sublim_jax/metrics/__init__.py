"""Metrics of a student: accuracy, imitation, representations and weights; theory beside them in `predictions`."""

from sublim_jax.metrics.student import ALL as ALL
from sublim_jax.metrics.student import EvalContext as EvalContext
from sublim_jax.metrics.student import Metric as Metric
from sublim_jax.metrics.student import TeacherStudent as TeacherStudent
from sublim_jax.metrics.student import accuracy as accuracy
from sublim_jax.metrics.student import budget as budget
from sublim_jax.metrics.student import imitation as imitation
from sublim_jax.metrics.student import layers as layers
from sublim_jax.metrics.student import measure as measure
from sublim_jax.metrics.student import readout as readout
from sublim_jax.metrics.student import representation as representation
from sublim_jax.metrics.student import task as task
