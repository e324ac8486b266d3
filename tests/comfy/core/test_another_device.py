"""Every method once with models on another device than prompts and latents, as with a GPU (see pretend_device.py), in its own process."""

from __future__ import annotations

import os
import subprocess
import sys

CHOSEN = (
    "combined/test_learning_everywhere.py::test_factors_learn[SD1.5]",
    "combined/test_new_factors.py",
    "combined/test_own_mask.py::test_a_flagged_run_is_drawn_by_the_model_without_the_prompts_neurons",
    "combined/test_simple.py::test_a_check_draws_what_the_sampler_draws_and_says_what_the_guard_says",
    "copies/test_probe_node.py::test_the_node_gives_gallery_estimates_and_report",
    "curvature/test_maps.py::test_reverse_mode_leaves_the_model_as_it_was",
    "curvature/test_maps.py::test_the_sum_is_the_sum",
    "curvature/test_recording.py::test_a_picture_that_a_guard_drew_again_has_no_recorded_map",
    "lora/test_filter.py::test_filtered_and_removed_add_up",
    "neurons/test_masks.py::test_a_higher_ratio_takes_less_and_merging_takes_both",
    "neurons/test_masks.py::test_pruning_costs_no_evaluation_and_the_base_stays",
    "stability/test_influences.py::test_a_parent_draws_with_what_other_nodes_put_on_the_model",
    "stability/test_lora_watch.py::test_detect_keeps_every_bit_and_needs_no_profile[euler]",
    "stability/test_other_words.py::test_a_flagged_picture_is_another_and_its_neighbours_keep_their_bits",
    "stability/test_samplers.py::test_a_restart_with_the_model_itself_is_the_stock_run[inpaint-plain]",
    "stability/test_trials.py::test_where_the_prompt_asks_for_the_same_it_was_no_memory[True-correct]",
)


def test_methods_hold_on_another_device(comfyui, root):
    command = [sys.executable, "-m", "pytest", "-q", "-o", f"pythonpath={comfyui}", *(f"tests/comfy/{name}" for name in CHOSEN)]
    found = subprocess.run(command, cwd=root, env=os.environ | {"COMFYUI_DEVICE": "pretend"}, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-6000:]


def test_the_pretend_device_tells_devices_apart(comfyui, root):
    """Else nothing was shown."""
    script = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("run", "demo/run.py")
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)
run.add_comfyui()
import torch
run.load_pack()
from unmemorize_pack.tests import pretend_device
pretend_device.install()
there = torch.ones(2, device="gpu:0")
assert (there + there).device.type == "gpu" and (there + there).cpu().tolist() == [2, 2]
for wrong in (
    lambda: there + torch.ones(2),
    lambda: torch.randn(2, device="gpu:0", generator=torch.Generator()),
    lambda: there.numpy(),
):
    try:
        wrong()
    except (RuntimeError, TypeError):
        continue
    raise SystemExit("two devices met")
"""
    given = os.environ | {"COMFYUI_DEVICE": "pretend", "COMFYUI_PATH": str(comfyui)}
    found = subprocess.run([sys.executable, "-c", script], cwd=root, env=given, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
