"""Nodes that join families: a LoRA filtered by what the model does with it, LoRAs compared epoch by epoch, words that call a memory up."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io, ui

from ..host.combined import best_epoch, trigger_words
from ..host.combined.alternative_prompts import with_alternatives
from ..host.combined.last_learnt import filter_once
from ..host.combined.measured_filter import MeasuredJob
from ..host.combined.measured_report import provenance, report
from ..host.copies.detectors import BuiltIn
from ..host.core.prompts import prompt_list
from ..host.core.schema import hints
from ..host.lora import lora_files
from ..host.lora.folder import folders, stamp
from ..unmemorize.lora.relearning import STEPS
from .copies_check import Detector, References
from .inputs import sampling_inputs
from .lora import ALIASES, LoRAInfo
from .stability_profiles import Profile


class MeasuredLoRAFilter(io.ComfyNode):
    """What may go, and what must stay? The model is asked."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeMeasuredLoRAFilter",
            display_name="Filter LoRA by Measuring",
            category="unmemorize/lora",
            description="Learns a LoRA anew from what it does to prompts that you use it with, beginning at a third of its strength: the "
            "style comes back, what only the captions of its training pictures call up does not. Minutes; ours, no paper's.",
            inputs=[
                io.LoraModel.Input("lora", tooltip="From Open LoRA, or a LoRA that was just trained."),
                io.Model.Input("model", tooltip="The model the LoRA was trained on, without the LoRA."),
                io.Clip.Input("clip", tooltip="Its text encoder, without the LoRA."),
                io.Latent.Input("latent", tooltip="An empty latent of the size of your pictures; small ones are faster."),
                LoRAInfo.Input("info", optional=True, tooltip="From Open LoRA: carried on, with a note of what was done."),
                io.String.Input(
                    "captions",
                    multiline=True,
                    default="",
                    tooltip="Captions that the LoRA may have been trained with, one a line; # begins a comment. If none of them leaks, "
                    "nothing is changed. Empty: it is learnt anew from the prompts alone.",
                ),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="Prompts that you use the LoRA with, none of them a caption of its training set, one a line: what it does for "
                    "them stays. Empty: everyday prompts that come with the pack.",
                ),
                io.String.Input(
                    "reference",
                    default="",
                    tooltip="The LoRA's trigger word alone, for a LoRA that teaches one: what it does is kept. Empty for a style.",
                ),
                io.Float.Input(
                    "keep", default=0.8, min=0.0, max=1.0, step=0.01,
                    tooltip="Least share of what the LoRA changes for the prompts that must be kept.",
                ),
                *sampling_inputs("for the captions' runs"),
                io.Int.Input(
                    "learning_steps", optional=True, default=STEPS, min=1, max=100000,
                    tooltip="Steps of learning: more bring back more of the style.",
                ),
            ],
            outputs=[
                io.LoraModel.Output(
                    "filtered", display_name="filtered", tooltip="The kept part, for Load LoRA Model or Save Filtered LoRA."
                ),
                io.LoraModel.Output("removed", display_name="removed", tooltip="What was taken out, to see what it draws."),
                LoRAInfo.Output("filtered_info", display_name="info", tooltip="Of the filtered part, for Save Filtered LoRA."),
                io.Float.Output(
                    "leak_left", display_name="leak_left", tooltip="What is left of what the LoRA did for the captions alone, drawn "
                    "again with the filtered LoRA; 1 if none leaks, or nothing was removed.",
                ),
                io.Float.Output(
                    "kept", display_name="kept", tooltip="Share that is left of what the LoRA changes for the prompts."
                ),
                io.String.Output("text", display_name="report", tooltip="What is left in which layers, and what it cost, as JSON."),
            ],
            **hints(io.Schema, search_aliases=["lora memorization", "lora clean", "leak", "block weights", *ALIASES]),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, lora: dict, model: Any, clip: Any, latent: dict, captions: str, prompts: str, reference: str, keep: float, seed: int,
        steps: int, cfg: float, sampler_name: str, scheduler: str, learning_steps: int = STEPS, info: dict | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        use = {"seed": seed, "steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler}
        tensors, words = lora_files.check_model(lora), (prompt_list(captions), prompt_list(prompts), reference.strip())
        job = MeasuredJob(tensors, model, clip, *words, latent, use, keep, learning_steps)
        found = filter_once(job)
        facts = report(found, job)
        described = {**(info or {}), **lora_files.describe(found.kept or tensors), "filter": provenance(info, job, found)}
        return io.NodeOutput(
            found.kept,
            found.removed,
            described,
            found.leak_left,
            found.prompts_kept,
            json.dumps(facts, indent=1),
            ui={"unmemorize_report": [facts]},
        )


class TriggerWords(io.ComfyNode):
    """Which word calls the memory up?"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeTriggerWords",
            display_name="Trigger Words",
            category="unmemorize/copies",
            description="Takes each word of a prompt away, and puts another in its place, and shows how much of the memorization signal "
            "goes with it: the word to change if a picture looks like a copy. Samples the first steps only.",
            inputs=[
                io.Model.Input("model", tooltip="The model, with its LoRAs, as you sample it."),
                io.Clip.Input("clip", tooltip="Its text encoder; also finds words that stand near."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, as you sample with it."),
                io.Latent.Input("latent", tooltip="An empty latent of the size of your pictures."),
                io.String.Input("prompt", multiline=True, default="", tooltip="The prompt whose picture looks like a copy."),
                io.Int.Input("seeds", default=2, min=1, max=64, tooltip="Runs for each variant of the prompt; more are surer."),
                *sampling_inputs("as you generate"),
                io.String.Input(
                    "word_list",
                    multiline=True,
                    default="",
                    tooltip="Words that may stand in each other's place, with commas between them, a list a line. Empty: the nearest word "
                    "by the text encoder.",
                ),
                Profile.Input(
                    "profile", optional=True, tooltip="With a stability profile the guard's score is the signal; without, the norm of the "
                    "guidance, as in WEN."
                ),
            ],
            outputs=[
                io.String.Output("word", display_name="word", tooltip="The word on which most hangs; empty if nothing hangs on one."),
                io.Float.Output("share", display_name="share", tooltip="Share of the signal that goes with it, 0 to 1."),
                io.String.Output("changed", display_name="changed prompt", tooltip="The prompt with another word in its place, to try."),
                io.String.Output("report", display_name="report", tooltip="Every word, what hangs on it, and the cost, as JSON."),
            ],
            is_output_node=True,
            **hints(io.Schema, search_aliases=["prompt memorization", "token significance", "which word", "copyright", "overfit"]),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, clip: Any, negative: Any, latent: dict, prompt: str, seeds: int, seed: int, steps: int, cfg: float,
        sampler_name: str, scheduler: str, word_list: str = "", profile: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        use = {"seed": seed, "steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler}
        question = trigger_words.Question(model, clip, prompt, negative, latent, use, seeds, word_list, profile)
        answer = trigger_words.words_that_trigger(question)
        facts = trigger_words.report(answer, question)
        word, share, changed = trigger_words.suggestion(answer, prompt)
        return io.NodeOutput(
            word, share, changed, json.dumps(facts, indent=1),
            ui={"unmemorize_report": [facts], "unmemorize_words": [trigger_words.shown(answer, question)]},
        )  # fmt: skip


class AlternativePrompts(io.ComfyNode):
    """A prompt, and others that say nearly the same."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeAlternativePrompts",
            display_name="Alternative Prompts",
            category="unmemorize/stability",
            description="Encodes a prompt, and variants of it in which one to three words are others. A stability guard in mode correct "
            "draws a picture that it flags again: at first with variants that together mean your prompt and never say its exact words, "
            "which a memory hangs on, then with your words.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder, as for the prompt itself."),
                io.String.Input("text", multiline=True, dynamic_prompts=True, tooltip="What you want in the picture."),
                io.String.Input(
                    "word_list",
                    multiline=True,
                    default="",
                    tooltip="Words that may stand for each other, one group a line: red, blue, green. Only words of such groups are then "
                    "changed. Empty: every word but the little ones, to those that the text encoder has nearest.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive", display_name="positive", tooltip="The prompt as it is, for the sampler."),
                io.Conditioning.Output("alternatives", display_name="alternatives", tooltip="For a stability guard's input of that name."),
                io.String.Output("variants", display_name="variants", tooltip="The variants, one a line."),
            ],
            **hints(io.Schema, search_aliases=["prompt variants", "synonyms", "loosen", "memorization", "reword"]),
        )

    @classmethod
    def execute(cls, clip: Any, text: str, word_list: str) -> io.NodeOutput:
        return io.NodeOutput(*with_alternatives(clip, text, word_list))


class BestEpoch(io.ComfyNode):
    """Which epoch has the style and no picture?"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = folders()
        return io.Schema(
            node_id="UnmemorizeBestEpoch",
            display_name="Best Epoch",
            category="unmemorize/lora",
            description="Compares the epochs of a LoRA, or its strengths: which of them give a training picture back, how much of the "
            "style each has learnt, and a picture of each. Suggests the one that has learnt most and leaks nothing.",
            inputs=[
                io.Model.Input("model", tooltip="The model the LoRA was trained on, without the LoRA."),
                io.Clip.Input("clip", tooltip="Its text encoder, without the LoRA."),
                io.Vae.Input("vae", tooltip="Decodes the pictures."),
                io.Latent.Input("latent", tooltip="An empty latent of the size of your pictures; small ones are faster."),
                io.Combo.Input(
                    "folder", options=names, default=names[0], tooltip="A folder of ComfyUI's LoRAs that holds the epochs of one training."
                ),
                io.String.Input("strengths", default="1", tooltip="Strengths to compare, with commas between them."),
                io.String.Input(
                    "captions",
                    multiline=True,
                    default="",
                    tooltip="Captions that the LoRA was trained with, one a line; # begins a comment. Four to eight are good.",
                ),
                io.String.Input("reference", default="", tooltip="The LoRA's trigger word alone, if it teaches one; empty for a style."),
                *sampling_inputs("as you generate"),
                References.Input("references", optional=True, tooltip="The training pictures: copies of them are then counted."),
                Detector.Input("detector", optional=True, tooltip="From Load Copy Detector; without it the built-in one."),
                io.Float.Input(
                    "copy_limit",
                    default=BuiltIn.least,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="With references: likeness from which a picture is a copy, the threshold that Copy Check reports.",
                ),
                io.Int.Input(
                    "probe_pictures",
                    default=0,
                    min=0,
                    max=500,
                    optional=True,
                    tooltip="Without references: so many pictures are drawn beyond each epoch, as LoRA Leak Probe does, to see what "
                    "several seeds agree on. 64 and more are good, and cost as many runs an epoch; 0: none.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "grid",
                    display_name="grid",
                    tooltip="A plot of the epochs, and a row each: its pictures, what it leaks, what it has learnt.",
                ),
                io.String.Output("suggestion", display_name="suggestion", tooltip="Name of the LoRA that is suggested; empty if all leak."),
                io.String.Output("report", display_name="report", tooltip="Every epoch with its numbers, as JSON."),
            ],
            is_output_node=True,
            **hints(io.Schema, search_aliases=["overfit", "checkpoint comparison", "lora epochs", "xy plot", *ALIASES]),
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: Any) -> str:
        return stamp(folder)

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, latent: dict, folder: str, strengths: str, captions: str, reference: str, seed: int,
        steps: int, cfg: float, sampler_name: str, scheduler: str, references: Any = None, detector: Any = None,
        copy_limit: float = BuiltIn.least, probe_pictures: int = 0,
    ) -> io.NodeOutput:  # fmt: skip
        use = {"seed": seed, "steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler}
        several, used = best_epoch.strengths_of(strengths), None if references is None else detector or BuiltIn()
        asked = best_epoch.Comparison(
            model,
            clip,
            vae,
            folder,
            several,
            prompt_list(captions),
            reference.strip(),
            latent,
            use,
            references,
            used,
            copy_limit,
            probe_pictures,
        )
        epochs, pictures = best_epoch.compare(asked)
        facts, grid = best_epoch.report(epochs), best_epoch.shown(epochs, pictures)
        preview = ui.PreviewImage(grid, cls=cls).as_dict()
        return io.NodeOutput(grid, facts["suggestion"], json.dumps(facts, indent=1), ui={**preview, "unmemorize_report": [facts]})
