"""What a map depends on beside its settings: the models that it compares, and what other nodes do to them and put into the prompts.

A threshold from clean prompts holds under the same alone: FreeU, a reference picture or another baseline move a map as a memory does.
"""

from __future__ import annotations

from typing import Any

from ...unmemorize.curvature.differences import METHODS
from ..core import facts
from ..core.identity import differences, identity, shown
from ..core.influences import DISTILLED, DISTILLED_FACT, FACT, INFLUENCES, holding, influences, other_influences

MODEL, BASELINE = "model", "baseline"
IDENTITIES = (MODEL, BASELINE)
OPTIONAL = {BASELINE: facts.IDENTITY} | FACT | DISTILLED_FACT
"""Of a map or of a calibration's file, only where there are any; nothing of other nodes is noted in files of before, which had none."""


def noted(model: Any, baseline: Any, positive: Any, negative: Any, told: list[float | None]) -> dict[str, Any]:
    """For a map's settings: identities, what other nodes do, and warnings; `baseline` and `negative` are None where they are not asked.
    `told`: the distilled guidance of each prompt, the positive first."""
    sides = [[extras for _, extras in side or ()] for side in (positive, negative)]
    models = {MODEL: model} | ({} if baseline is None else {BASELINE: baseline})
    others = sorted({name for m in models.values() for name in influences(m.model_options, [*sides[0], *sides[1]])})
    alone = sorted(set(holding(sides[0])) - set(holding(sides[1]))) if negative is not None else []
    warnings = []
    if alone:
        warnings.append(
            f"Only the positive prompt holds {', '.join(alone)}: that pins the picture down as a memory does, and the map cannot tell "
            "the two apart. Lead both prompts through the node that puts it there."
        )
    if len(set(told)) > 1:
        words = ["none" if guidance is None else f"{guidance:g}" for guidance in told]
        warnings.append(
            f"The model is told another guidance with the positive prompt ({words[0]}) than with the negative one ({words[1]}), and the "
            "map shows what that changes, too. Lead both prompts through FluxGuidance with one value."
        )
    found: dict[str, Any] = {name: identity(m) for name, m in models.items()}
    more = {INFLUENCES: others, DISTILLED: next(iter(told), None), "warnings": warnings}
    return found | {name: value for name, value in more.items() if value not in (None, [])}


def short(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as reports show them: identities without their values."""
    return {k: shown(v) if k in IDENTITIES else v for k, v in settings.items()}


def check_same(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """ValueError, naming what differs, unless a calibration (`theirs`) and a map of one method were measured under the same."""
    if METHODS[ours["method"]].needs_baseline:
        other = _other_baseline(theirs, ours)
        if other:
            raise ValueError(
                f"The calibration was measured against another baseline: {other}. Calibrate with the model and the baseline of the map, "
                "or use dh_0, which needs none."
            )
    if DISTILLED in theirs and DISTILLED in ours and theirs[DISTILLED] != ours[DISTILLED]:
        raise ValueError(
            f"The calibration was measured with the distilled guidance {theirs[DISTILLED]:g}, the map with {ours[DISTILLED]:g}, which "
            f"changes it, too. Lead both prompts of the map through FluxGuidance with {theirs[DISTILLED]:g}."
        )
    differs = other_influences(ours.get(INFLUENCES, []), theirs.get(INFLUENCES, []))
    if differs:
        raise ValueError(
            f"Other nodes change what the model predicts, but not as they did for the calibration ({differs}), so that its threshold says "
            "nothing here. Calibrate with the same nodes, or measure the map without them."
        )


def _other_baseline(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """What differs of the two that a map compares, in words, or "". Here LoRAs count: what they change is what the map shows."""
    if BASELINE not in theirs:
        return "its file does not say which, since an older version of Unmemorize saved it"
    other = [f"{name} of the baseline" for name in differences(theirs[BASELINE], ours[BASELINE])]
    words = {MODEL: "LoRAs of the model", BASELINE: "LoRAs of the baseline"}
    other += [words[k] for k in IDENTITIES if theirs[k]["patches"] != ours[k]["patches"]]
    return f"the two differ in {', '.join(other)}" if other else ""


def check_baseline(model: Any, baseline: Any) -> None:
    """ValueError unless both models share latent space, kind of prediction and the width of the text embedding."""

    def facts_of(m: Any) -> dict[str, Any]:
        config, latents = m.model.model_config.unet_config, m.get_model_object("latent_format")
        return {
            "latent space": f"{type(latents).__name__}, {latents.latent_channels} channels",
            "kind of prediction": " ".join(sorted(c.__name__ for c in type(m.get_model_object("model_sampling")).__mro__[1:-1])),
            "text embedding": config.get("context_dim") or config.get("context_in_dim"),
        }  # fmt: skip

    ours, theirs = facts_of(model), facts_of(baseline)
    different = [f"{k} ({ours[k]} here, {theirs[k]} there)" for k in ours if ours[k] != theirs[k]]
    if different:
        raise ValueError(f"`baseline` is another kind of model, it cannot be compared: {', '.join(different)}.")
