"""nano's ONNX decoder in a real browser: a box answered by onnxruntime-web in a page, compared with samtune's own mask.

    python benchmarks/onnx_browser.py --ort node_modules/onnxruntime-web/dist [--precision fp16] [--chromium chromium]

Needs Chromium and the npm package onnxruntime-web. A page served on loopback loads the decoder in the transformers.js
layout, answers the same box 20 times, and posts mask and times back. Printed: the share of pixels that differ, the
milliseconds of the first and of the median answer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from samtune.exports.export import export
from samtune.exports.onnx.check import OnnxPredictor
from samtune.exports.verify import probe_image
from samtune.inference.predictor import Predictor
from samtune.model.io.load import load_model
from samtune.model.preprocess import scale_boxes, upscale_masks
from samtune.types import Prompt

PAGE = """<!doctype html><meta charset="utf-8"><script src="/ort/ort.wasm.min.js"></script><script>
(async () => {
  const post = (value) => fetch("/result", { method: "POST", body: JSON.stringify(value) });
  try {
    ort.env.wasm.wasmPaths = "/ort/";
    ort.env.wasm.numThreads = 1;
    const given = await (await fetch("/inputs.json")).json();
    const session = await ort.InferenceSession.create("/decoder.onnx", { executionProviders: ["wasm"] });
    const feeds = {
      input_points: new ort.Tensor("float32", new Float32Array(0), [1, 1, 0, 2]),
      input_labels: new ort.Tensor("int64", new BigInt64Array(0), [1, 1, 0]),
      input_boxes: new ort.Tensor("float32", Float32Array.from(given.box), [1, 1, 4]),
    };
    for (const [name, shape] of Object.entries(given.features)) {
      const data = await (await fetch("/" + name)).arrayBuffer();
      feeds[name] = new ort.Tensor("float32", new Float32Array(data), shape);
    }
    const times = [];
    let found;
    for (let turn = 0; turn < 20; turn++) {
      const started = performance.now();
      found = await session.run(feeds);
      times.push(performance.now() - started);
    }
    await post({ times, scores: [...found.iou_scores.data], masks: [...found.pred_masks.data] });
  } catch (error) {
    await post({ error: String(error) });
  }
})();
</script>"""
BOX = (90.0, 60.0, 220.0, 150.0)
"""xyxy in pixels of the probe image."""
KINDS = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}


def serve(files: dict[str, bytes], ort: Path, done: threading.Event, result: dict[str, Any]) -> ThreadingHTTPServer:
    """A server on loopback for the page, its files and onnxruntime-web; what the page posts goes into `result`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the standard library's name
            name = self.path.lstrip("/")
            if name.startswith("ort/"):
                content = (ort / Path(name).name).read_bytes()
            elif name in files:
                content = files[name]
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header(
                "Content-Type", KINDS.get(Path(name).suffix, "text/html" if not name else "application/octet-stream")
            )
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            result.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            done.set()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def in_browser(chromium: str, ort: Path, decoder: Path, features: dict[str, Any], box: list[float]) -> dict[str, Any]:
    """Masks, scores and times of a box answered in a page."""
    files = {name: value.astype(np.float32).tobytes() for name, value in features.items()}
    inputs = {"box": box, "features": {name: list(value.shape) for name, value in features.items()}}
    files |= {"": PAGE.encode(), "decoder.onnx": decoder.read_bytes(), "inputs.json": json.dumps(inputs).encode()}
    done, result = threading.Event(), dict[str, Any]()
    server = serve(files, ort, done, result)
    with tempfile.TemporaryDirectory() as profile:
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",
        ]
        browser = subprocess.Popen(
            [chromium, *flags, f"http://127.0.0.1:{server.server_port}/"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            if not done.wait(300):
                sys.exit("the page did not answer within 300 s")
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
    if "error" in result:
        sys.exit(f"in the page: {result['error']}")
    return result


def main() -> None:
    """Export, ask the browser, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ort", type=Path, required=True, help="the dist folder of onnxruntime-web")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp32")
    parser.add_argument("--chromium", default="chromium", help="the browser")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, suffix = Path(place) / "nano", "_fp16" if arguments.precision == "fp16" else ""
        export("nano", folder, "onnx", layout="transformersjs", precision=arguments.precision)
        names = "vision_encoder", "prompt_encoder_mask_decoder"
        files = folder / "onnx" / f"{names[0]}{suffix}.onnx", folder / "onnx" / f"{names[1]}{suffix}.onnx"
        own, image = Predictor(load_model("nano")), probe_image()
        features = OnnxPredictor(*files, "transformersjs").embed(image)
        box = scale_boxes(torch.tensor(BOX), image.shape[:2], own.loaded.image_size).tolist()
        found = in_browser(arguments.chromium, arguments.ort, files[1], features, box)
    expected = own.predict(own.embed(image), [Prompt.box(*BOX)])[0]
    low = own.loaded.mask_size
    masks = torch.tensor(found["masks"]).view(3, low, low)
    shown = upscale_masks(masks[int(np.argmax(found["scores"]))][None], image.shape[:2])[0].numpy() > 0
    times = found["times"]
    print(f"pixels     {np.mean(shown != expected.best):.4%} of the mask differ from samtune's own")
    print(
        f"time       {times[0]:.0f} ms the first answer, {median(times[1:]):.0f} ms the median of {len(times) - 1} more"
    )


if __name__ == "__main__":
    main()
