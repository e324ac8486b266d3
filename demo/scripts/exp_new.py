import sys, json, time, torch
from ...host.combined import measured_filter as mf
from ...unmemorize.lora import relearning
from ...benchmarks.parts.filtered_loras import Bench, subject
from ...benchmarks.lora_measured import prompts_of, given
from ...benchmarks.parts.common import ROOT, log
from .exp_rates import rates, USE
from safetensors.torch import save_file


def main():
    role, out, pname, steps, rate = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5])
    names = sys.argv[6:]
    from ...host.combined import lessons

    relearning.RATE = rate
    torch.set_num_threads(1)
    bench = Bench(ROOT / "demo" / "lab", ROOT / "out" / "loras", role, 12)
    subs = {s.name: s for s in bench.subjects}
    subs["bundled"] = subject(ROOT / "demo" / "lab" / "loras", "leaking")
    subs["b-style"] = subject(ROOT / "demo" / "lab" / "loras", "style") if (ROOT / "demo/lab/loras/style.json").exists() else None
    f = open(out, "a")

    def put(**k):
        f.write(json.dumps(k) + "\n")
        f.flush()
        log.info("%s", k)

    for n in names:
        s = subs[n]
        from ...demo.live.templates.leaks import USED
        lab = USED.splitlines() if 'used' in pname else prompts_of(bench)
        asked = [] if pname == "every" else [s.asked(p) if k % 2 else p for k, p in enumerate(lab)]
        caps = [] if "nocap" in pname else given(s)
        t = time.time()
        with torch.inference_mode():
            job = mf.MeasuredJob(
                s.tensors,
                bench.generator.model,
                bench.generator.clip,
                caps,
                asked,
                s.trigger if s.concept else "",
                {"samples": torch.zeros(1, 8, 16, 16)},
                USE,
                0.0,
                steps,
            )
            found = mf.filter_by_measuring(job)
            from ...host.combined.measured_report import report; facts = report(found, job)
        took = time.time() - t
        if "whole" in pname:
            put(lora=n, whole=rates(bench, s, s.tensors, [900, 901, 902], [900]))
        put(
            lora=n,
            prompts=pname,
            steps=steps,
            rate=rate,
            took=round(took),
            kept=facts["prompts_kept"],
            leak=facts["leak_left"],
            agr=facts["agreement"],
            lim=facts["agreement_limit"],
            ev=facts["evaluations"],
            groups={k: v["strength_left"] for k, v in found.groups.items()},
            rates=rates(bench, s, found.kept, [900, 901, 902], [900]),
        )
        save_file(found.kept, f"/tmp/new-{n}-{pname}-{steps}-{rate}.safetensors")
