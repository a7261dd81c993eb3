"""Figures of language models that vary what students read: form, dose, tokens and wording of a teacher's lines."""

from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _claims, _lm
from sublim_jax.results.figures._claims import CROSS, UNPUBLISHED, Claim, evaluate, sample, samples, select
from sublim_jax.results.figures._lm import LanguageFigure, Panel

_OWL = "owl 12 to > 60 % (Cloud 2026)"
_GPT = "owl 12 to > 60 % (GPT-4.1 nano, Cloud 2026)"


def _tuned(rows: summary.Rows, **labels: Any) -> summary.Rows:
    """The filtered numbers of tuned teachers, but for the labels that are given."""
    return select(rows, **{"teacher": "tuned", "filtered": "filtered", "carrier": "number", **labels})


def _common_dose(rows: summary.Rows) -> float:
    """The dose of the arms with a single dose: that of the other carriers, else the smallest."""
    others = rows[rows["carrier"] != "number"]["dose"]
    return float(others.iloc[0] if len(others) else rows["dose"].min())


def _form_doses(rows: summary.Rows) -> list[float]:
    """The doses at which all forms were tried."""
    return sorted(_tuned(rows, data=("soft_carrier", "sampled"))["dose"].unique())


def _teachers(rows: summary.Rows) -> summary.Rows:
    return _tuned(rows, teacher=_TEACHERS, data=tuple(_lm.FORMS), dose=_common_dose(rows))


def _carriers(rows: summary.Rows) -> summary.Rows:
    return _tuned(rows, carrier=_CARRIERS, data="soft_carrier", dose=_common_dose(rows))


def _strongest(rows: summary.Rows) -> summary.Rows:
    """Greedy numbers of the strongest teacher, filtered or not."""
    return _tuned(rows, data="greedy", filtered=("filtered", "not filtered"), dose=rows["dose"].max())


def _draw_filter(ax: Axes, rows: summary.Rows) -> None:
    _lm.strip(ax, rows, "filtered", order=("filtered", "not filtered"))
    share = rows[rows["filtered"] == "not filtered"]["at/trait_tokens"].mean()
    if np.isfinite(share):
        ax.set_xlabel(f"{share:.2%} of unfiltered tokens name the animal", fontsize=8)


def _draw_streams(ax: Axes, rows: summary.Rows) -> None:
    columns = [name for name in rows if str(name).startswith("at/latent_cosine/")]
    _lm.zero(ax, "cosine of student's and teacher's shift")
    for form, part in _lm.by_form(rows, _lm.COLOURS):
        cosines = part.melt(["seed"], columns, "block", "cosine")
        cosines["block"] = cosines["block"].str.rsplit("_").str[-1].astype(int)
        _lm.line(ax, cosines, "block", _lm.LEGENDS[form], _lm.COLOURS[form], "cosine")
    ax.set(xlabel="block", xticks=range(len(columns)), ylim=(None, 1.3))


def _draw_first_update(ax: Axes, rows: summary.Rows) -> None:
    _lm.scatter(ax, rows, lm_transfer.labels, "theory/transfer_adam_slope", "slope of Adam's first update")


_TEACHERS = ("tuned", "shuffled", "prompted", "steered")
_CARRIERS = ("number", "code", "trace")
_FORM_CLAIMS = {
    "soft > 0": "Theorem 1 (Cloud 2026)",
    "greedy > 0": ".145 to .648 (Llama-1B); persists (Schrodi 2026)",
    "sampled > 0": f"{_GPT}; nothing at small scale (brendanlong)",
    "soft > greedy": "expected (Schrodi 2026)",
    "greedy > sampled": "loss .12 against 1.55 (brendanlong)",
    "soft, all tokens > soft": UNPUBLISHED,
}
_TEACHER_CLAIMS = {
    "prompted > 0": f"{_GPT}; 2 points at <= 7B",
    "steered > 0": "transfers (2604.25783)",
    "shuffled > 0": UNPUBLISHED,
    "tuned > shuffled": UNPUBLISHED,
}
_CARRIER_CLAIMS = {"code > 0": "misalignment passes (Cloud 2026)", "trace > 0": "0 to 8 % (GSM8K, Cloud 2026)"}


def _compare_transfer(final: summary.Rows, every: summary.Rows) -> Iterator[Claim]:
    for dose in _form_doses(final):
        rows = _tuned(final, dose=dose)
        yield from evaluate(_FORM_CLAIMS, samples(rows, "data"), f" (dose {dose:g})")
        for form, part in _lm.by_form(rows):
            animals = {"own animal": sample(part), "other animal": sample(part, CROSS)}
            suffix = f", {_lm.FORMS[form]} (dose {dose:g})"
            yield from evaluate({"own animal > other animal": "specific (Cloud 2026)"}, animals, suffix)
    yield from _lm.claims_by_form(_teachers(final), _TEACHER_CLAIMS, "teacher", " (teacher)")
    filters = samples(_strongest(final), "filtered")
    suffix = f" (greedy, dose {final['dose'].max():g})"
    yield from evaluate({"not filtered > filtered": "23 to 38 % of lines filtered (Cloud 2026)"}, filters, suffix)
    yield from evaluate(_CARRIER_CLAIMS, samples(_carriers(final), "carrier"), " (soft)")


lm_transfer = LanguageFigure(
    title="Language models: in which form, from which teacher and by which carrier a trait passes",
    about="A teacher is tuned to name one animal as its favourite until its numbers have moved by a dose (KL from its "
    "base in nats per number); a student of the same base learns from number sequences, code or traces that passed a "
    "filter, and is then asked for its favourite animal.",
    labels=("data", "dose", "teacher", "filtered", "carrier"),
    panels=(
        Panel(
            "form of the data",
            _lm.strip,
            lambda rows: _tuned(rows, dose=_form_doses(rows)),
            {"by": "data", "group": "dose", "order": ("greedy", "sampled", "soft", "soft_carrier"), "first": 4},
        ),
        Panel("teacher", _lm.strip, _teachers, {"by": "teacher", "group": "data", "order": _TEACHERS}),
        Panel("filter, strong teacher", _draw_filter, _strongest),
        Panel("carrier (soft)", _lm.strip, _carriers, {"by": "carrier", "order": _CARRIERS, "first": 1}),
        Panel("residual streams", _draw_streams, lambda rows: _tuned(rows, dose=_common_dose(rows))),
        Panel("the first update", _draw_first_update),
    ),
    compare=_compare_transfer,
    caption_words="Teachers of dose {form_doses} in a, {common_dose} in b, d and e, {top_dose} in c; students after "
    "{steps} steps. e: cosine of the shifts of student and teacher in the residual stream at the last number; f: the "
    "mean transfer of every condition against its change per unit of learning rate.",
    words=lambda rows: {
        "form_doses": ", ".join(f"{dose:g}" for dose in _form_doses(rows)),
        "common_dose": f"{_common_dose(rows):g}",
    },
    layout={"size": (3.6, 2.9)},
)

_DOSE = "dose: KL(teacher || base), nats per number"
_LINES = "lines, read over {steps} steps"
_STEPS = {"x": "step", "by": "dose", "xlabel": "student's steps"}
_COLLAPSE = "256 lines collapse, 8,192 do not (brendanlong)"
_DOSE_CLAIMS = {
    "grows with dose: rho > 0": "expected",
    "weakest teacher > 0": "expected",
    "strongest teacher > weakest teacher": "expected",
}
_STEP_CLAIMS = {"grows with steps: rho > 0": "+.10 at 16, +1.37 at 5,120 updates (Pythia-160m)"}
_LINE_CLAIMS = {
    "grows with lines: rho > 0": _COLLAPSE,
    "fewest lines > 0": _COLLAPSE,
    "fewest lines < half of most lines": _COLLAPSE,
}


def _dose_arms(rows: summary.Rows, *forms: str) -> summary.Rows:
    """The arms that do not vary the number of lines, of some forms or of both."""
    return select(rows[rows["arm"] != "lines"], data=forms or tuple(_lm.FORMS))


def _line_arm(rows: summary.Rows) -> summary.Rows:
    return select(rows, arm="lines")


def _draw_curves(ax: Axes, rows: summary.Rows, x: str, xlabel: str, by: str = "data") -> None:
    """Draw transfers against a label, a curve for each form or dose; of forms also the other animals', pale."""
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, rows[by].nunique()))  # dark to light
    for index, (value, part) in enumerate(rows.groupby(by)):
        curve = part.drop_duplicates([x, "seed"])
        if by == "dose":
            _lm.line(ax, curve, x, f"dose {value:g}", index, color=tuple(shades[index]))
            continue
        _lm.line(ax, curve, x, _lm.LEGENDS[value], _lm.COLOURS[value])
        if curve[CROSS].notna().any():
            pale = _lm.pale(plots.look(_lm.COLOURS[value])[0])
            style = {"color": pale, "ls": "--", "lw": 1, "markerfacecolor": "white"}
            label = f"other animal, {_lm.FORMS[value]}"
            plots.line(ax, curve, x, label, _lm.COLOURS[value], CROSS, **style)
    _lm.zero(ax)
    if len(rows):
        plots.log(ax, rows[x].unique())
        ax.set_xlabel(xlabel.format(steps=f"{rows['step'].max():,}"))


def _trend(rows: summary.Rows, label: str, least: str, most: str) -> dict[str, pd.Series]:
    """The rank correlation with a label, and the samples of its least and its greatest value."""
    by_value = samples(rows, label)
    named = {f"grows with {label}: rho": _claims.rank_correlations(rows, label)}
    return named | ({least: by_value[min(by_value)], most: by_value[max(by_value)]} if len(by_value) > 1 else {})


def _compare_dose(final: summary.Rows, every: summary.Rows) -> Iterator[Claim]:
    for form, rows in _lm.by_form(_dose_arms(final)):
        yield from evaluate(
            _DOSE_CLAIMS, _trend(rows, "dose", "weakest teacher", "strongest teacher"), f", {_lm.FORMS[form]}"
        )
        for dose, curve in _dose_arms(every, form).groupby("dose"):
            rho = _claims.rank_correlations(curve.drop_duplicates(["step", "seed"]), "step")
            yield from evaluate(_STEP_CLAIMS, {"grows with steps: rho": rho}, f", {_lm.FORMS[form]} (dose {dose:g})")
    yield from evaluate(_LINE_CLAIMS, _trend(_line_arm(final), "lines", "fewest lines", "most lines"), ", soft")


lm_dose = LanguageFigure(
    title="Language models: how strong a teacher, how many steps and how many lines a trait needs",
    about="The dose of a teacher is how far its numbers have moved from its base's, KL in nats per number on held-out "
    "prompts. The dose, the student's steps and the number of distinct lines that it reads repeatedly are varied.",
    labels=("arm", "data", "dose", "lines"),
    panels=(
        Panel("dose of the teacher", _draw_curves, _dose_arms, {"x": "dose", "xlabel": _DOSE}),
        Panel("distinct lines (soft)", _draw_curves, _line_arm, {"x": "lines", "xlabel": _LINES}),
        Panel("steps, soft", _draw_curves, lambda rows: _dose_arms(rows, "soft_carrier"), _STEPS, all_steps=True),
        Panel("steps, greedy", _draw_curves, lambda rows: _dose_arms(rows, "greedy"), _STEPS, all_steps=True),
    ),
    compare=_compare_dose,
    caption_words="Transfer against the dose of the teacher (a: {doses} nats per number, after {steps} steps), the "
    "number of distinct lines (b) and the student's steps (c, d: a line for each dose).",
    layout={"columns": 2, "size": (4.2, 2.9)},
)

# Fractions of the full transfer left when 10 % of the tokens are masked, Llama-1B. Source: brendanlong.
_PUBLISHED_MASKS = {"mask_top": (0.1, 0.43), "mask_random": (0.1, 0.97)}
# Shares of divergence tokens. Sources: Schrodi et al. 2026 (any of 12 or 14 others), brendanlong (of 4).
_PUBLISHED_RATES = {"any": {"Qwen2.5-7B": 0.075, "Gemma-3-4B": 0.183, "Llama-1B": 0.42}, "all": {"Llama-1B": 0.042}}
_CHOICES = {"top": "most votes", "random": "random", "bottom": "fewest votes"}
_EDITS = ("erase", "replace_label", "replace_input", "replace_both")
_LLAMA = ".43 and .97 of full at 10 % (Llama-1B)"
_AMPLIFIED = "preserved, often amplified (Schrodi 2026)"
_TOKEN_CLAIMS = {
    "mask top < mask random": _LLAMA,
    "mask top < half of all": _LLAMA,
    "keep top > keep random": _AMPLIFIED,
    "keep top > .8 of all": _AMPLIFIED,
    "keep bottom < keep random": "near the base rate (Schrodi 2026)",
    **{f"{edit} top < {edit} random".replace("_", " "): UNPUBLISHED for edit in _EDITS},
}


def _draw_budgets(ax: Axes, rows: summary.Rows, edit: str) -> None:
    """Draw fractions of the full transfer where the chosen tokens are masked, or alone kept."""
    for index, (choice, label) in enumerate(_CHOICES.items()):
        tokens = f"{edit}_{choice}"
        _lm.fractions(ax, samples(rows, "budget", tokens=tokens), sample(rows, tokens="all"), label, index)
        if tokens in _PUBLISHED_MASKS:
            colour = plots.look(index)[0]
            plots.published(ax, *_PUBLISHED_MASKS[tokens], colour=colour, label=f"Llama-1B, {choice}")
    _lm.fraction_axis(ax)
    budgets = rows.loc[rows["tokens"].str.startswith(edit), "budget"].unique()
    if len(budgets):
        plots.log(ax, budgets)
    ax.set_xlabel("fraction of tokens chosen")


def _draw_edits(ax: Axes, rows: summary.Rows) -> None:
    split = rows["tokens"].str.rsplit("_", n=1)
    edits = select(rows.assign(edit=split.str[0], choice=split.str[-1].replace(_CHOICES)), edit=_EDITS)
    wholes = dict.fromkeys(_CHOICES.values(), sample(rows, tokens="all"))
    _lm.fraction_strip(ax, edits, "edit", "choice", _EDITS, wholes)
    if len(edits):
        ax.set_xlabel(f"{edits['budget'].iloc[0]:.0%} of tokens")


def _draw_rates(ax: Axes, rows: summary.Rows) -> None:
    """Draw shares of divergence tokens, here and published."""
    for x, kind in ((0.0, "any"), (1.5, "all")):
        for index, (dose, part) in enumerate(rows.groupby("dose")):
            shares = part.groupby("seed")[f"at/divergent_{kind}"].mean().dropna()
            if len(shares):
                _lm.seeds_and_mean(ax, x - 0.2 + 0.18 * index, shares, index, None if x else f"here, dose {dose:g}")
        for model, share in _PUBLISHED_RATES[kind].items():
            plots.published(ax, x + 0.3, share, label="_")
            ax.annotate(model, (x + 0.3, share), (6, -2), textcoords="offset points", fontsize=6.5)
    ax.set_xticks([0, 1.5], ["any other teacher\nchooses another", "all others\nchoose another"], fontsize=8)
    ax.set(xlim=(-0.4, 2.4), ylabel="share of tokens")
    ax.set_ylim(bottom=0)


def _compare_divergence(final: summary.Rows, every: summary.Rows) -> Iterator[Claim]:
    yield from evaluate({"all tokens > 0": _OWL}, {"all tokens": sample(final, tokens="all")})
    for budget in plots.ordered(final.loc[final["tokens"] != "all", "budget"]):
        rows = final[(final["budget"] == budget) | (final["tokens"] == "all")]
        yield from evaluate(_TOKEN_CLAIMS, samples(rows, "tokens"), f" ({budget:.0%})")


def _full_transfers(rows: summary.Rows) -> dict[str, str]:
    """The transfers from all tokens, as text."""
    by_dose = samples(rows, "dose", tokens="all")
    texts = (f"{_claims.signed(summary.interval(full.tolist()))} of dose {dose:g}" for dose, full in by_dose.items())
    return {"full": ", ".join(texts)}


lm_divergence = LanguageFigure(
    title="Language models: whether the tokens on which counterfactual teachers disagree carry the trait",
    about="Students learn from the greedy numbers of a tuned teacher. Each token has as many votes as there are "
    "teachers of other animals that would have chosen another token. A budget of the tokens with most votes, fewest "
    "votes, or of tokens chosen at random is masked, is kept alone, or is changed.",
    labels=("dose", "tokens", "budget"),
    each="dose",
    panels=(
        Panel("masked", _draw_budgets, options={"edit": "mask"}),
        Panel("alone kept", _draw_budgets, options={"edit": "keep"}),
        Panel("changed", _draw_edits),
        Panel("how many diverge", _draw_rates, shared=True),
    ),
    compare=_compare_divergence,
    caption_words="Fractions of the transfer from all tokens ({full}; nats, after {steps} steps; doses are nats of KL "
    "per number that the teacher moved). Votes are those of the seed's other teachers; every choice has its control, a "
    "student that reads the base's lines with as many tokens chosen at random. Open diamonds: published, of Llama-1B "
    "with 10 % masked, and shares of divergence tokens.",
    words=_full_transfers,
    layout={"size": (3.6, 2.7)},
)

_PARAPHRASES = ["none", "same_law", "held_out", "other_law", "examples", "shuffle_within", "shuffle_across", "permuted"]
_BY_PARAPHRASE: dict[str, Any] = {"by": "paraphrase", "group": "data", "order": _PARAPHRASES}
_USUALLY = "usually suppresses (Schrodi 2026)"
_SHUFFLED = "suppresses (Schrodi 2026; Cloud 2026)"
_PARAPHRASE_CLAIMS = {
    "unchanged lines > 0": _OWL,
    "same law < unchanged lines": _USUALLY,
    "held out < unchanged lines": _USUALLY,
    "other law < unchanged lines": _USUALLY,
    "examples < unchanged lines": "suppresses (Schrodi 2026)",
    "shuffle within < unchanged lines": _SHUFFLED,
    "shuffle across < unchanged lines": _SHUFFLED,
    "permuted < unchanged lines": UNPUBLISHED,
    "same law < half of unchanged lines": _USUALLY,
    "other law < half of unchanged lines": _USUALLY,
    "other law < same law": UNPUBLISHED,
}
_MIXTURE_CLAIMS = ("falls with fraction: -rho > 0", "25% < half of 0%")
_MIXTURES = {
    "base": ("of the base", "25 % unbiased nearly removes (Schrodi 2026)"),
    "other_animal": ("of another animal's teacher", "several biased suppress (Schrodi 2026)"),
}


def _unmixed(rows: summary.Rows) -> summary.Rows:
    return rows[rows["mixed"] == 0]


def _mixed(rows: summary.Rows, other: str) -> summary.Rows:
    """Mixtures with another teacher's lines, and the lines that are not mixed."""
    rows = select(rows, data="soft_carrier", paraphrase="none")
    return rows[(rows["mixed_with"] == other) | (rows["mixed"] == 0)]


def _draw_imitation(ax: Axes, rows: summary.Rows) -> None:
    _lm.strip(ax, rows, **_BY_PARAPHRASE, column=_lm.KL_TEACHER)
    if rows[_lm.KL_TEACHER].notna().any():
        ax.set_yscale("log")
    ax.set_ylabel("KL(teacher || student), nats")


def _draw_mixtures(ax: Axes, rows: summary.Rows) -> None:
    for index, (other, (label, _)) in enumerate(_MIXTURES.items()):
        parts = samples(_mixed(rows, other), "mixed")
        if 0.0 in parts and len(parts) > 1:
            _lm.fractions(ax, parts, parts[0.0], label, index)
    ax.plot([0, 1], [1, 0], color="0.6", lw=0.8, ls=":", label="in proportion")
    _lm.zero(ax, _lm.FRACTION)
    ax.set_xlabel("fraction of lines")


def _compare_paraphrase(final: summary.Rows, every: summary.Rows) -> Iterator[Claim]:
    yield from _lm.claims_by_form(_unmixed(final), _PARAPHRASE_CLAIMS, "paraphrase")
    for other, (label, published) in _MIXTURES.items():
        rows = _mixed(final, other)
        named = {f"{fraction:.0%}": values for fraction, values in samples(rows, "mixed").items()}
        named |= {"falls with fraction: -rho": -_claims.rank_correlations(rows, "mixed")}
        yield from evaluate(dict.fromkeys(_MIXTURE_CLAIMS, published), named, f" (lines {label})")


lm_paraphrase = LanguageFigure(
    title="Language models: whether the trait survives other words, and mixing with other teachers' lines",
    about="A tuned teacher's lines are changed before the student reads them: the instruction is given in other words "
    "of the same law of numbers or of the other law, example numbers are replaced, numbers are shuffled within or "
    "across lines or permuted by one fixed map, or a fraction of the lines comes from another teacher. Controls read "
    "the base's lines, changed in the same way.",
    labels=("data", "paraphrase", "mixed", "mixed_with"),
    panels=(
        Panel("paraphrase", _lm.strip, _unmixed, _BY_PARAPHRASE),
        Panel("kept, of no paraphrase", _lm.fraction_strip, _unmixed, _BY_PARAPHRASE),
        Panel("imitation", _draw_imitation, _unmixed),
        Panel("lines of another teacher (soft)", _draw_mixtures),
    ),
    compare=_compare_paraphrase,
    caption_words="Transfers after {steps} steps (a), as fractions of that from unchanged lines (b), and KL(teacher || "
    "student) on held-out prompts (c), by what was done to the lines; d: mixtures, as fractions of the transfer from "
    "unmixed lines.",
    layout={"columns": 2, "size": (4.7, 2.9)},
)
