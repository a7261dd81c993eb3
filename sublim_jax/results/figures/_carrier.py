"""The figure of transplants of training states, as data."""

from sublim_jax.results import summary
from sublim_jax.results.figures._spec import FigureSpec, Panel, Select, only

# Text of a category for each value of the label `carried`.
_PARTS = ("none", "weights", "first", "second", "weights\n+ first", "weights\n+ second", "first\n+ second", "all")
_FUTURES = {
    "untrained": "untrained teacher",
    "flipped": "the same, reflected",
    "unrelated": "unrelated teacher",
    "none": "no gradient",
}
_STUDENTS = {"adam": "Adam", "adamw": "AdamW", "momentum": "momentum", "cnn": "Adam, CNN"}


def _named(final: summary.Rows) -> summary.Rows:
    """Rows with the names of futures, of kinds of students and of what was carried."""
    futures, students = final["future"].map(_FUTURES), final["arm"].map(lambda name: _STUDENTS.get(name, name))
    parts = final["carried"].str.replace("+", "\n+ ")
    return final.assign(futures=futures, students=students, parts=parts)


def _last(select: Select) -> Select:
    """A selection of the rows of the last step."""

    def last(rows: summary.Rows) -> summary.Rows:
        chosen = select(rows)
        return chosen[chosen["step"] == chosen["step"].max()] if len(chosen) else chosen

    return last


def _by_part(arm: str) -> Panel:
    return Panel(
        "parts",
        ("futures",),
        categories=True,
        order=_PARTS,
        where=_last(only(arm=arm)),
        xlabel="what the host got from the donor",
        title=_STUDENTS[arm],
    )


carrier = FigureSpec(
    title="What carries a trait from one training step to the next",
    defaults={
        **{"arm": "adam", "carried": "none", "future": "untrained"},
        **{"optimizer": "adam", "lr": 1e-3, "decay": 0.0, "net_trunk": "mlp", "net_channels": "32x128"},
    },
    every_step=True,
    prepare=_named,
    panels=(
        _by_part("adam"),
        _by_part("momentum"),
        Panel(
            "parts",
            ("students",),
            categories=True,
            order=_PARTS,
            where=_last(only(future="untrained")),
            xlabel="what the host got from the donor",
            title="targets of the untrained teacher",
            inside=True,
        ),
        Panel(
            "step",
            ("carried",),
            where=only(arm="adam", future="untrained", carried=("none", "weights", "weights+first", "all")),
            xlabel="training step",
            title="Adam, targets of the untrained teacher",
            inside=True,
        ),
    ),
    published_text="",
    size=(6.4, 3.4),
    text=(
        "Hosts imitate the untrained teacher up to a cut, donors the trained one, on equal noise from equal weights. "
        "At the cut the host gets parts of the donor's state, weights and moments of the optimizer, and "
        "is trained on without the source of the trait (colours: its targets). Test accuracy at the end, and over the "
        "steps after the cut."
    ),
)
