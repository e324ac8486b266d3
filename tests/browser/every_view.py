"""A small graph with every view of ours, and the hands that take hold of it on a page."""

from __future__ import annotations

from typing import Any

from unmemorize_pack.demo.live.graph import Graph

HOSTILE = "<img src=x onerror=alert(1)>"
CLASSIC, VUE = "classic", "nodes-2"
TYPES = {
    "guard": "UnmemorizeKSamplerStabilityGuard", "chart": "UnmemorizeStabilityChart", "overlay": "UnmemorizeHeatmapOverlay",
    "filter": "UnmemorizeBAFFilterLoRA", "spectrum": "UnmemorizeLoRASpectrumPlot", "prune": "UnmemorizePruneNeurons",
    "compare": "UnmemorizeCompareNeuronMasks", "map": "UnmemorizeCurvatureDifferenceMap", "threshold": "UnmemorizeMapThreshold",
}  # fmt: skip
CHANGED = "app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()"
"""As after a click: the front end looks whether the graph is another."""


def workflow(object_info: dict[str, Any]) -> dict[str, Any]:
    """One small graph with every view."""
    g = Graph(object_info)
    load = g.add("UnmemorizeLoadDemoCheckpoint", (0, 0), (300, 100))
    words = g.add("CLIPTextEncode", (0, 150), (300, 100), clip=load[1], text="a large blue star on a navy background")
    empty = g.add("CLIPTextEncode", (0, 300), (300, 100), clip=load[1], text="")
    latent = g.add("EmptyLatentImage", (0, 450), (300, 110), width=128, height=128)
    profile = g.add("UnmemorizeLoadStabilityProfile", (0, 610), (300, 90), profile="demo/demo")
    run = {"positive": words[0], "negative": empty[0], "latent_image": latent[0], "profile": profile[0]}
    how = {"seed": 1, "steps": 12, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
    guard = g.add("UnmemorizeKSamplerStabilityGuard", (340, 0), (340, 660), model=load[0], **run, **how)
    g.add("UnmemorizeStabilityChart", (340, 720), (340, 400), report=guard[3])
    picture = g.add("VAEDecode", (720, 0), (300, 60), samples=guard[0], vae=load[2])
    cheap = {"preset": "custom", "probes": 2}
    measured = g.add(
        "UnmemorizeCurvatureDifferenceMap", (720, 110), (300, 420),
        model=load[0], positive=words[0], latent=guard[0], negative=empty[0], **cheap,
    )  # fmt: skip
    g.add("UnmemorizeHeatmapOverlay", (1060, 0), (340, 620), image=picture[0], map=measured[0])
    limit = g.add("UnmemorizeMapThreshold", (720, 620), (300, 180), map=measured[0])
    g.add("MaskPreview", (720, 880), (300, 240), mask=limit[0])
    lora = g.add("UnmemorizeOpenLoRA", (0, 760), (300, 130), lora_name="demo/leaking")
    how = {"score": "mean", "threshold": 0.05}
    split = g.add("UnmemorizeBAFFilterLoRA", (1440, 0), (340, 720), lora=lora[0], model=load[0], clip=load[1], info=lora[1], **how)
    g.add("UnmemorizeLoRASpectrumPlot", (1060, 700), (360, 560), spectrum=split[4])
    mask = g.add("UnmemorizeLoadNeuronMask", (0, 960), (300, 80), mask="demo/demo")
    pruned = g.add("UnmemorizePruneNeurons", (1440, 780), (340, 340), model=load[0], mask=mask[0])
    g.add("PreviewAny", (720, 1180), (300, 100), source=pruned[1])
    g.add("UnmemorizeCompareNeuronMasks", (1820, 0), (340, 600), mask_1=mask[0], mask_2=mask[0], names=f"{HOSTILE}, second")
    return g.build("7d1a3c52-0f6e-4b7b-9a0e-5a2f1c9d7e11")


GAUGE = """g => { const [score, limit] = g.lastChild.textContent.match(/-?[0-9.]+/g).map(Number)
    return [score, limit, parseFloat(g.querySelector('i').style.width), parseFloat(g.querySelector('b').style.left)] }"""
"""Score and limit of a gauge in words, and where they are drawn, in percent."""


def view(page: Any, name: str) -> Any:
    """The panel of the node of a kind; playwright looks through its shadow root."""
    number = page.evaluate("type => app.graph._nodes.findIndex(n => n.type === type)", TYPES[name])
    mark = "([n, name]) => { app.graph._nodes[n].widgets.find(w => w.name === 'unmemorize_view').element.dataset.test = name }"
    page.evaluate(mark, [number, name])
    return page.locator(f'.unmemorize-view[data-test="{name}"]')


def widget_value(page: Any, name: str, widget: str) -> Any:
    return page.evaluate(
        "([type, name]) => app.graph._nodes.find(n => n.type === type).widgets.find(w => w.name === name).value", [TYPES[name], widget]
    )


def show(page: Any, name: str) -> Any:
    """Bring a node to the middle at full size; returns its panel."""
    page.evaluate(
        """type => { const n = app.graph._nodes.find(n => n.type === type), c = app.canvas, s = c.ds
            s.scale = 1; s.offset = [520 - n.pos[0], 260 - n.pos[1] - Math.max(0, n.size[1] - 700)]; c.setDirty(true, true) }""",
        TYPES[name],
    )
    page.wait_for_timeout(1200)
    return view(page, name)


def pixels(panel: Any) -> str:
    return panel.locator("canvas").first.evaluate("c => c.toDataURL()")


def slide(panel: Any, label: str, value: float) -> None:
    panel.get_by_label(label, exact=True).evaluate(
        "(s, v) => { s.value = v; s.dispatchEvent(new Event('input', { bubbles: true })) }", str(value)
    )


def asked(page: Any) -> Any:
    """What would be queued, and what would be saved of the widgets."""
    return page.evaluate(
        """async () => { const p = await app.graphToPrompt()
            return [p.output, p.workflow.nodes.map(n => n.widgets_values)] }"""
    )


def wait_for_all(page: Any) -> None:
    """Until every node of ours has its result."""
    page.wait_for_function(
        """types => types.every(t => app.graph._nodes.filter(n => n.type === t).every(n => {
            const v = n.widgets.find(w => w.name === 'unmemorize_view').element.shadowRoot
            return !v.querySelector('button.report').disabled }))""",
        arg=list(TYPES.values()),
        timeout=400_000,
    )
