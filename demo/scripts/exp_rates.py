import torch
from ...benchmarks.parts.guarding import pictures_of, EVERYWHERE
from ...demo.scripts.generate import SETTINGS

USE = {"seed": 5, "steps": 20, "cfg": SETTINGS["cfg"], "sampler_name": "euler", "scheduler": "normal"}


def rates(bench, s, tensors, seeds, few):
    m = bench.applied(tensors)
    cop = []
    with torch.inference_mode():
        for c, pic, lim in s.photos:
            cop.append(lim.holds(pictures_of(bench.generator, m, c, seeds), pic, EVERYWHERE).float().mean().item())
        sty = [float(s.present(p, c)) for c in bench.captions[:12] for p in pictures_of(bench.generator, m, s.asked(c), few)]
    return [round(x, 2) for x in cop], round(sum(sty) / len(sty), 3)
