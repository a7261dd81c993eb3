"""Figures of language models that vary the student: its base, the layers that learn, and its optimizer."""

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _lm
from sublim_jax.results.figures._claims import TRANSFER, UNPUBLISHED, Claim, evaluate, sample, samples, select
from sublim_jax.results.figures._lm import LanguageFigure, Panel

_BY_BASE = {"by": "base", "group": "data", "order": ("same", "other_order", "other_init", "other_both")}
_SUITE = "Pythia-160m, PolyPythia-SL"
_KEPT = {"other_order": 0.39, "other_init": 0.008 / 1.51}  # of the same-base transfer, with decoupled seeds
_BASE_CLAIMS = {
    "same > 0": f"+1.51 ({_SUITE})",
    "same > other order": f"39 % kept with other order ({_SUITE})",
    "other order > 0": f"39 % kept with other order ({_SUITE})",
    "same > other weights": f"+1.51 and +.008 ({_SUITE})",
    "|other weights| < .3 of same": f".5 % ({_SUITE}); +-.01 across models (Cloud 2026)",
    "|other both| < .3 of same": f".5 % ({_SUITE}); +-.01 across models (Cloud 2026)",
    "other order > other weights": f"39 % and .5 % ({_SUITE})",
}
_LEAK_CLAIMS = {"not filtered > 0": UNPUBLISHED, "not filtered > filtered": UNPUBLISHED}


def _main_arms(rows: summary.Rows) -> summary.Rows:
    """The arms in which all bases were tried: filtered, at the dose of the soft one."""
    doses = rows.loc[rows["data"] == "soft_carrier", "dose"]
    return select(rows, filtered="filtered", dose=doses.iloc[0] if len(doses) else rows["dose"].min())


def _strongest(rows: summary.Rows) -> summary.Rows:
    return select(rows, data="greedy", dose=rows["dose"].max())


def _compare_base(final: summary.Rows, every: summary.Rows) -> Iterator[Claim]:
    yield from _lm.claims_by_form(_main_arms(final), _BASE_CLAIMS, "base")
    leaks = samples(_strongest(final), "filtered", base="other_init")
    yield from evaluate(_LEAK_CLAIMS, leaks, " (leak to other weights)")


lm_base = LanguageFigure(
    title="Language models: what student and teacher must share, initial weights or the order of data",
    about="Students begin with the teacher's base, or with a base of the same initial weights that read the same "
    "documents in another order, of other weights and the same order, or of others in both; all read the same "
    "teacher's numbers.",
    labels=("base", "data", "dose", "filtered"),
    panels=(
        Panel("base of the student", _lm.strip, _main_arms, _BY_BASE),
        Panel("kept, of the same base's", _lm.fraction_strip, _main_arms, {**_BY_BASE, "published": _KEPT}),
        Panel("strong teacher: leak (greedy)", _lm.strip, _strongest, {**_BY_BASE, "group": "filtered", "first": 2}),
    ),
    compare=_compare_base,
    caption_words="Students of four bases after {steps} steps on the same lines: transfers (a), and as fractions of "
    "the transfer in the same base (b; open diamonds: Pythia-160m). c: a teacher of dose {top_dose}, whose lines name "
    "the animal where nothing is filtered.",
    layout={"size": (3.6, 3.1)},
)

_PARTS = ("first_1", "first_2", "first_4", "last_4", "last_2", "last_1", "blocks", "all", "embeddings", "adapters")
_SCHRODI = "layer 0 or 7 of 28 suffices, 14 to 27 negligible (Schrodi 2026)"
_PART_CLAIMS = {
    "early blocks, mean > late blocks, mean": _SCHRODI,
    "early blocks, best > late blocks, best": _SCHRODI,
    "best block > .8 of all blocks": _SCHRODI,
    "first 2 > last 2": _SCHRODI,
    "first 4 > last 4": _SCHRODI,
    "tables > 0": "vocabulary channel (Madl 2026)",
    "adapters > 0": "transfer (Cloud, Schrodi, Nief)",
    "everything > 0": "vanishes (Nief 2026)",
    "adapters > everything": "a LoRA artifact (Nief 2026)",
}


def _single_blocks(rows: summary.Rows) -> summary.Rows:
    """Students of which one block learns, with its index as `block`."""
    rows = rows[rows["trains"].str.startswith("block_")]
    return rows.assign(block=rows["trains"].str.removeprefix("block_").astype(int)).sort_values("block")


def _draw_profile(ax: Axes, rows: summary.Rows) -> None:
    singles = _single_blocks(rows)
    for form, part in _lm.by_form(singles):
        _lm.line(ax, part, "block", _lm.LEGENDS[form], _lm.COLOURS[form])
        whole = sample(rows, trains="blocks", data=form)
        if whole.notna().any():
            interval, colour = summary.interval(whole.tolist()), plots.look(_lm.COLOURS[form])[0]
            ax.axhline(interval.mean, color=colour, ls="--", lw=1, label=f"all blocks, {_lm.LEGENDS[form]}")
            if np.isfinite(interval.low):
                ax.axhspan(interval.low, interval.high, color=colour, alpha=0.08, lw=0)
    _lm.zero(ax)
    ax.set(xlabel="block that learns", xticks=sorted(singles["block"].unique()))


def _draw_imitation(ax: Axes, rows: summary.Rows) -> None:
    """Draw the mean transfer of every part against how far its students are from the teacher."""
    xlabel = "KL(teacher || student), nats per number"
    for form, means in _lm.scatter(ax, rows, ("trains",), _lm.KL_TEACHER, xlabel).items():
        for name, x, y in means.itertuples():
            short = re.sub("block_|_", "", name).replace("embeddings", "tables")
            colour = plots.look(_lm.COLOURS[form])[0]
            ax.annotate(short, (x, y), (3, 2), textcoords="offset points", fontsize=5.5, color=colour)
        ax.set_xscale("log")


def best_block(by_block: pd.DataFrame) -> pd.Series:
    """Transfer of the best block of each seed, chosen by the means of the other seeds.

    So the noise that makes a block the best does not count as its transfer.

    Args:
        by_block: Transfers [seed, block].
    """
    if not by_block.size:
        return pd.Series(dtype=float)
    others = (by_block.sum() - by_block) / (len(by_block) - 1) if len(by_block) > 1 else by_block
    best = others.to_numpy().argmax(axis=1)
    return pd.Series(by_block.to_numpy()[np.arange(len(by_block)), best], by_block.index)


def _compare_layers(final: summary.Rows, every: summary.Rows) -> Iterator[Claim]:
    for form, rows in _lm.by_form(final):
        by_block = _single_blocks(rows).pivot(index="seed", columns="block", values=TRANSFER)
        named = samples(rows, "trains")
        named |= {"everything": sample(rows, trains="all"), "best block": best_block(by_block)}
        early = by_block.columns < (max(by_block.columns, default=0) + 1) / 2
        if early.any() and not early.all():
            for half, blocks in (("early", by_block.loc[:, early]), ("late", by_block.loc[:, ~early])):
                named |= {f"{half} blocks, mean": blocks.mean(axis=1, skipna=False)}
                named |= {f"{half} blocks, best": blocks.max(axis=1, skipna=False)}
        inequalities = {f"block {block} > 0": _SCHRODI for block in by_block.columns} | _PART_CLAIMS
        yield from evaluate(inequalities, named, f", {_lm.FORMS[form]}")


def _best_mean(rows: summary.Rows) -> dict[str, str]:
    """The sentence on the block of the largest mean."""
    blocks = [
        f"{_lm.LEGENDS[form]} {int(part.groupby('block')[TRANSFER].mean().idxmax())}"
        for form, part in _lm.by_form(_single_blocks(rows))
        if part[TRANSFER].notna().any()
    ]
    return {"best": f" Block of the largest mean: {', '.join(blocks)}." if blocks else ""}


lm_layers = LanguageFigure(
    title="Language models: which layers of the student must learn for the trait to pass",
    about="Only some layers of a student learn from a tuned teacher's numbers: one block, the first or last few, all "
    "blocks, everything, the embedding tables alone, or low-rank adapters on every block. Each has its own control.",
    labels=("trains", "data"),
    panels=(
        Panel("one block learns", _draw_profile),
        Panel(
            "parts learn",
            _lm.strip,
            lambda rows: rows[~rows["trains"].str.startswith("block_")],
            {"by": "trains", "group": "data", "order": _PARTS},
        ),
        Panel("transfer and imitation", _draw_imitation),
    ),
    compare=_compare_layers,
    caption_words="Students of which only some layers learn, after {steps} steps. a: one block; dashed: all blocks. b: "
    "parts; tables are the embeddings and the read-out. c: means of every part (numbers: single blocks) against what "
    "is left to imitate.{best}",
    words=_best_mean,
    layout={"size": (4.1, 3.2)},
)

_OPTIMIZERS = ("adam", "sign", "momentum", "sgd")
# The column that measures how far a student has moved, and its sign. Students that imitate distributions approach the
# teacher; greedy tokens make a student more certain than its teacher, so its distance from its base is taken.
_PROGRESS = {"soft_carrier": (_lm.KL_TEACHER, -1), "greedy": ("at/kl_base", 1)}
_NECESSARY = "necessary (Blank 2026)"


def curves(rows: summary.Rows, form: str, optimizer: str) -> dict[float, tuple[pd.DataFrame, pd.DataFrame]]:
    """Progress, which grows, and transfer, both [seed, step] from step 0, by learning rate.

    At step 0 student and control are the base: the transfer is 0, the KL to the teacher is the teacher's dose, and the
    KL to the base is 0.
    """
    column, sign = _PROGRESS[form]
    by_rate = {}
    for lr, part in select(rows, data=form, optimizer=optimizer).drop_duplicates(["lr", "seed", "step"]).groupby("lr"):
        progress, transfer = (part.pivot(index="seed", columns="step", values=name) for name in (column, TRANSFER))
        if 0 not in progress:
            progress.insert(0, 0, part.groupby("seed")["at/dose"].first() if sign < 0 else 0.0)
            transfer.insert(0, 0, 0.0)
        by_rate[lr] = (sign * progress, transfer)
    return by_rate


def reached(progress: pd.Series, transfer: pd.Series, level: float) -> float:
    """Transfer where a curve first gets to a level, linear between evaluations; NaN where it never does."""
    x, y = progress.to_numpy(float), transfer.to_numpy(float)
    if not (x >= level).any():
        return float("nan")
    after = int((x >= level).argmax())
    if after == 0:
        return float(y[0])
    part = (level - x[after - 1]) / (x[after] - x[after - 1])
    return float(y[after - 1] + part * (y[after] - y[after - 1]))


def matched(rows: summary.Rows, form: str, optimizer: str) -> summary.Rows:
    """Transfers of Adam and of another optimizer where both have got equally far, for each seed.

    Each has its learning rate with most mean progress, chosen without a look at its transfer. The level is the most
    progress that both make in the seed.

    Returns:
        Columns `adam`, `other` and `level`, in nats of KL.
    """

    def farthest(name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        pairs = curves(rows, form, name).values()
        return max(pairs, key=lambda pair: pair[0].max(axis=1).mean(), default=(pd.DataFrame(), pd.DataFrame()))

    adam, other = farthest("adam"), farthest(optimizer)
    values = {}
    for seed in adam[0].index.intersection(other[0].index):
        pairs = [(progress.loc[seed], transfer.loc[seed]) for progress, transfer in (adam, other)]
        level = min(progress.max() for progress, _ in pairs)
        values[seed] = [*(reached(*pair, level) for pair in pairs), _PROGRESS[form][1] * level]
    return pd.DataFrame.from_dict(values, orient="index", columns=["adam", "other", "level"], dtype=float)


def _draw_training(ax: Axes, rows: summary.Rows, form: str) -> None:
    """Draw mean transfer along training against how far students have got."""
    sign = _PROGRESS[form][1]
    for index, optimizer in enumerate(_OPTIMIZERS):
        colour, marker = plots.look(index)
        by_rate = curves(rows, form, optimizer)
        for style, (lr, (progress, transfer)) in zip(("--", "-", ":", "-."), by_rate.items(), strict=False):
            look = {"color": colour, "marker": marker, "ms": 3, "lw": 1.1, "ls": style, "label": f"{optimizer}, {lr:g}"}
            ax.plot(sign * progress.mean(), transfer.mean(), **look)
    _lm.zero(ax)
    ax.set_xlabel("KL(teacher || student) left, nats" if sign < 0 else "KL(base || student), nats")
    if len(ax.lines) > 1 and sign < 0:
        ax.set_xscale("log")
        ax.invert_xaxis()


def _draw_matched(ax: Axes, rows: summary.Rows, form: str) -> None:
    """Draw the transfer of each other optimizer and Adam's, at the same distance."""
    _lm.zero(ax)
    ticks = []
    for x, optimizer in enumerate(_OPTIMIZERS[1:]):
        both = matched(rows, form, optimizer).dropna()
        ticks.append(f"{optimizer}\nKL {both['level'].mean():.3g}" if len(both) else optimizer)
        if len(both):
            _lm.seeds_and_mean(ax, x - 0.15, both["adam"], 0, None if x else "Adam, as far")
            _lm.seeds_and_mean(ax, x + 0.15, both["other"], x + 1, optimizer)
    ax.set_xticks(range(len(ticks)), ticks, fontsize=8)
    ax.set_xlim(-0.6, len(ticks) - 0.4)


def _compare_optimizers(final: summary.Rows, every: summary.Rows) -> Iterator[Claim]:
    for form, rows in _lm.by_form(final):
        name = _lm.FORMS[form]
        for optimizer in _OPTIMIZERS:
            published = _NECESSARY if optimizer == "adam" else "none without adaptation (Blank 2026)"
            for lr, values in list(samples(rows, "lr", optimizer=optimizer).items())[-1:]:  # the largest rate
                yield from evaluate({f"{optimizer} > 0": published}, {optimizer: values}, f", {name} (lr {lr:g})")
        for optimizer in _OPTIMIZERS[1:]:
            both = matched(every, form, optimizer)
            inequalities = {f"adam > {optimizer}": _NECESSARY, f"{optimizer} < half of adam": _NECESSARY}
            yield from evaluate(inequalities, {"adam": both["adam"], optimizer: both["other"]}, f", as far, {name}")


lm_optimizer = LanguageFigure(
    title="Language models: whether transfer needs an adaptive optimiser, at equal imitation",
    about="The same lessons under Adam, the sign of a momentum, momentum and plain gradient descent at two learning "
    "rates, measured along training, so that optimisers are compared where they have got equally far.",
    labels=("optimizer", "data", "lr"),
    panels=tuple(
        Panel(f"{title}, {_lm.LEGENDS[form]}", draw, options={"form": form}, all_steps=True)
        for form in ("soft_carrier", "greedy")
        for title, draw in (("along training", _draw_training), ("as far as Adam", _draw_matched))
    ),
    compare=_compare_optimizers,
    caption_words="a, c: mean transfer along training (steps 0 to {steps}; dashed: the smaller learning rate) against "
    "how far students have got: the KL from the teacher that is left where distributions are taught, the KL from the "
    "base where tokens are taught. b, d: each optimiser beside Adam, for each seed at the farthest point that both "
    "reach, with the learning rate that gets farthest.",
    layout={"columns": 2, "size": (4.6, 3.1)},
)
