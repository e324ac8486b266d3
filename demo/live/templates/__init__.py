"""The bundled workflows: one function each, from the server's node list to the workflow's JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import copies, filtering, guard, leaks, lora, maps, neurons, own, together, where

WORKFLOWS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "01-where-is-it-memorized": where.where_is_it_memorized,
    "02-what-does-a-lora-leak": lora.what_does_a_lora_leak,
    "03-is-this-picture-memorized": maps.is_this_picture_memorized,
    "04-all-maps-side-by-side": maps.all_maps_side_by_side,
    "05-a-lora-against-its-base": lora.a_lora_against_its_base,
    "06-guard-the-sampler": guard.guard_the_sampler,
    "07-guard-any-sampler": guard.guard_any_sampler,
    "08-filter-a-lora": filtering.filter_a_lora,
    "09-find-and-prune": neurons.find_and_prune,
    "10-all-four-together": together.all_four_together,
    "11-is-it-a-copy": copies.is_it_a_copy,
    "12-which-word-calls-it-up": copies.which_word_calls_it_up,
    "13-audit-a-model": copies.audit_a_model,
    "14-check-a-prompt": leaks.check_a_prompt,
    "15-clean-a-lora": leaks.clean_a_lora,
    "16-probe-a-lora": leaks.probe_a_lora,
    "17-compare-epochs": leaks.compare_epochs,
    "18-a-filter-in-one-node": filtering.a_filter_in_one_node,
    "19-inside-a-lora": filtering.inside_a_lora,
    "20-compare-masks": neurons.compare_masks,
    "21-your-own-model": own.your_own_model,
    "22-guard-a-lora": guard.guard_a_lora,
    "23-draw-copies-again": copies.draw_copies_again,
}
