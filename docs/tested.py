"""The README's tables of models, samplers and LoRA formats: what the tests run on, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from .reading import cases, constant, is_there

NUMBERS, KEYS, LAYERS = "numbers", "keys", "layers"
DEMO = "Demo model (SD1.x in miniature)"
ARCHITECTURES, FORMATS, SAMPLERS = "comfy/test_architectures.py", "comfy/lora/test_formats.py", "comfy/stability/test_samplers.py"
ON_THE_DEMO = {
    "maps": ("comfy/curvature/test_values.py", "test_dh_is_the_difference_of_gains"),
    "guard": (SAMPLERS, "test_a_restart_with_the_model_itself_is_the_stock_run"),
    "neurons": ("comfy/neurons/test_masks.py", "test_mask_follows_the_definition"),
    "LoRA filter": ("comfy/lora/test_filter.py", "test_filtered_and_removed_add_up"),
}
SPELLINGS = {
    "SD1.5": (FORMATS, "test_spellings_of_sd15"),
    "SD3": (FORMATS, "test_sd3_with_fused_qkv_and_swapped_halves"),
    "Wan": (FORMATS, "test_spellings_of_wan"),
}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def models() -> str:
    """Architecture by family of nodes."""
    for file, test in ON_THE_DEMO.values():
        is_there(file, test)
    columns: dict[str, dict[str, str]] = {family: {DEMO: NUMBERS} for family in ON_THE_DEMO}
    columns["neurons"] |= dict.fromkeys(cases("comfy/neurons/test_networks.py", "test_the_table_finds_the_feed_forward_layers"), LAYERS)
    columns["LoRA filter"] |= dict.fromkeys(cases("comfy/lora/test_key_maps.py", "test_key_maps_on_the_meta_device"), KEYS)
    for family, test in (("maps", "test_maps"), ("guard", "test_guard"), ("neurons", "test_neurons")):
        columns[family] |= dict.fromkeys(cases(ARCHITECTURES, test), NUMBERS)
    for name, where in SPELLINGS.items():
        if cases(*where):
            columns["LoRA filter"][name] = NUMBERS
    rows = dict.fromkeys([DEMO, *constant(ARCHITECTURES, "MODELS"), *(m for column in columns.values() for m in column)])
    return table(["model", *columns], ([row, *(column.get(row, "") for column in columns.values())] for row in rows))


def samplers() -> str:
    """Sampler by what watches it."""
    tests = (
        "test_a_run_that_stays_inside_is_bit_identical",
        "test_detecting_a_memory_changes_nothing",
        "test_only_the_flagged_sample_of_a_batch_changes",
        "test_only_the_edited_sample_of_a_batch_changes",
    )
    whole = [name for name in cases(SAMPLERS, tests[0]) if all(name in cases(SAMPLERS, test) for test in tests)]
    # the rows and words on all others and on schedulers stand on these
    for test in (
        "test_every_sampler_is_watched_without_a_trace",
        "test_every_sampler_can_restart_in_phases",
        "test_every_sampler_can_go_on_step_by_step",
        "test_every_scheduler_is_watched_without_a_trace",
    ):
        is_there(SAMPLERS, test)
    recorded = cases("comfy/curvature/test_recording.py", "test_recording_leaves_the_picture_bit_identical")
    heard = cases("comfy/neurons/test_recording.py", "test_every_kind_of_sampler_is_heard")
    rows = [
        [f"`{name}`", "batches" if name in whole else "single", "yes" if name in recorded else "", "yes" if name in heard else ""]
        for name in dict.fromkeys([*whole, *recorded, *heard])
    ]
    unwatched = ", ".join(f"`{name}`" for name in sorted(constant(SAMPLERS, "UNWATCHED")))
    rows += [["every other one that ComfyUI lists", "single", "", ""], [unwatched, "refused", "", ""]]
    return table(["sampler", "guard", "Record Score Difference", "Record Neuron Activity"], rows)


def adapters() -> str:
    """What the filter does, by kinds of adapters."""
    is_there("comfy/lora/test_files.py", "test_unknown_keys_pass_and_are_named")
    filtered = [*cases(FORMATS, "test_what_lycoris_writes"), *cases(FORMATS, "test_lokr_with_a_core")]
    passed = [
        *cases(FORMATS, "test_what_cannot_be_filtered_passes_and_is_named"),
        *cases(FORMATS, "test_differences_of_norms_and_biases_pass_and_are_named"),
        "unknown keys",
    ]
    done = {"filtered": filtered, "passes through byte by byte, named in the report": passed}
    return table(["what the filter does", "with"], ([what, "; ".join(names)] for what, names in done.items()))


def spellings() -> str:
    """Model by the trainers whose key names are read."""
    return table(["model", "spellings of the keys"], ([name, "; ".join(cases(*where))] for name, where in SPELLINGS.items()))
