"""The official implementation's half of the parity suite. It runs in its own environment and knows nothing of samtune.

    python official_side.py weights CONFIG SEED SHARPNESS OUT.pt     random weights in the official layout
    python official_side.py predict CONFIG WEIGHTS.pt CASES.safetensors OUT.safetensors
    python official_side.py video CONFIG WEIGHTS.pt FRAMES_FOLDER OUT.safetensors
    python official_side.py clip CONFIG WEIGHTS.pt FRAMES_FOLDER PROMPTS.json OUT.safetensors
    python official_side.py transform SIZE CASES.safetensors OUT.safetensors
    python official_side.py fixture OUT.safetensors
    python official_side.py inputs OUT.safetensors
    python official_side.py keys OUT.json CONFIG...

CONFIG is a file of the sam2 package, or a YAML file elsewhere. Cases are images `image/IMAGE` (uint8 [H, W, 3]) and
prompts `IMAGE.NAME/points`, `/labels`, `/box`, `/mask`; what the predictor takes and in what units its own docstring
says.
"""

import json
import sys
from pathlib import Path

import torchvision_standin

torchvision_standin.register()

import torch  # noqa: E402
from hydra import initialize_config_dir  # noqa: E402
from hydra.core.global_hydra import GlobalHydra  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from sam2.build_sam import build_sam2, build_sam2_video_predictor  # noqa: E402
from sam2.sam2_image_predictor import SAM2ImagePredictor  # noqa: E402
from sam2.utils.transforms import SAM2Transforms  # noqa: E402

HERE = Path(__file__).resolve().parent


def build(config, weights=None, make=build_sam2):
    """A model from the package's configuration of that name, or from a YAML file."""
    path = Path(config)
    if path.is_absolute():
        GlobalHydra.instance().clear()
        initialize_config_dir(str(path.parent), version_base="1.2")
        config = path.name
    return make(config, weights, device="cpu")


def randomise(model, seed, sharpness):
    """Give every tensor values that matter: fresh layers leave norms, scales and position embeddings constant.

    `sharpness` multiplies the mask heads' last layers: at 1 the logits stand close to 0 and the single mask is
    unstable, at 100 it is stable, so that both ways through the predictor are taken.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.min() == parameter.max():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        for head in model.sam_mask_decoder.output_hypernetworks_mlps:
            head.layers[-1].weight.mul_(sharpness)
            head.layers[-1].bias.mul_(sharpness)


def weights(config, seed, sharpness, out):
    torch.manual_seed(int(seed))
    model = build(config)
    randomise(model, int(seed), float(sharpness))
    torch.save({"model": model.state_dict()}, out)


def predict(config, weights_path, cases_path, out):
    model = build(config, weights_path)
    save_file(answers(model, load_file(cases_path)), out)


def answers(model, cases):
    """What the image predictor says to every case, with and without `multimask_output`."""
    predictor = SAM2ImagePredictor(model)
    # sam2 1.1.0 writes these down for an input of 1024 pixels; the package's main branch computes them.
    predictor._bb_feat_sizes = [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]
    scores = []
    model.sam_mask_decoder.register_forward_hook(lambda module, inputs, output: scores.append(output[3]))
    results, current = {}, None
    for name in sorted({key.split("/")[0] for key in cases} - {"image"}):
        part = {key.split("/")[1]: value for key, value in cases.items() if key.split("/")[0] == name}
        image = name.split(".")[0]
        if image != current:
            predictor.set_image(cases[f"image/{image}"].numpy())
            current = image
        prompt = {key: part[given].numpy() for key, given in PROMPT.items() if given in part}
        for kind in ("single", "multi"):
            masks, ious, low_res = predictor.predict(**prompt, multimask_output=kind == "multi")
            found = {"iou": ious, "low_res": low_res, "masks": masks > 0}
            results |= {f"{name}/{kind}/{key}": torch.as_tensor(value).clone() for key, value in found.items()}
            results[f"{name}/{kind}/object"] = scores[-1].clone()
    return results


PROMPT = {"point_coords": "points", "point_labels": "labels", "box": "box", "mask_input": "mask"}


def video(config, weights_path, frames, out):
    """Click on the first frame, track through the others; low-res logits of every frame."""
    predictor = build(config, weights_path, make=build_sam2_video_predictor)
    predictor.fill_hole_area = 0  # needs a CUDA extension
    state = predictor.init_state(frames)
    points = torch.tensor([[0.5 * state["video_width"], 0.5 * state["video_height"]]])
    predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, points=points, labels=torch.tensor([1]))
    masks = {f"{frame:03d}": logits.clone() for frame, _, logits in predictor.propagate_in_video(state)}
    save_file(masks, out)


def clip(config, weights_path, frames, prompts_path, out):
    """Prompts in the order of their frames, each given when tracking has come to it; logits by object and frame.

    A prompt is {"frame", "object", "box"?, "points"?, "labels"?, "mask"?}, the mask a list of rows of 0 and 1. Frames
    before an object's first prompt are tracked in reverse, in a state of their own.
    """
    predictor = build(config, weights_path, make=build_sam2_video_predictor)
    predictor.fill_hole_area = 0  # needs a CUDA extension
    predictor.add_all_frames_to_correct_as_cond = True  # as in SAM 2's training
    prompts = json.loads(Path(prompts_path).read_text())
    found = {}
    for number in sorted({prompt["object"] for prompt in prompts}):
        own = sorted((p for p in prompts if p["object"] == number), key=lambda p: p["frame"])
        for reverse in (True, False):
            state = predictor.init_state(frames)
            for prompt in own[:1] if reverse else own:
                give(predictor, state, prompt)
                for frame, _, logits in predictor.propagate_in_video(state, prompt["frame"], reverse=reverse):
                    found[f"{number}/{frame}"] = logits[0, 0].clone()
    save_file(found, out)


def give(predictor, state, prompt):
    """One prompt about one object."""
    place = {"inference_state": state, "frame_idx": prompt["frame"], "obj_id": prompt["object"]}
    if "mask" in prompt:
        predictor.add_new_mask(**place, mask=torch.tensor(prompt["mask"], dtype=torch.bool))
        return
    given = {name: torch.tensor(prompt[name]) for name in ("box", "points", "labels") if name in prompt}
    predictor.add_new_points_or_box(**place, **given)


def transform(size, cases_path, out):
    """The official preprocessing alone."""
    transforms = SAM2Transforms(int(size), 0.0)
    cases = load_file(cases_path)
    save_file({name: transforms(image.numpy()).contiguous() for name, image in cases.items()}, out)


def fixture(out):
    """A tiny model with random weights, prompts, and what the official code answers: `make test` runs on it."""
    torch.manual_seed(0)
    model = build(str(HERE / "tiny.yaml"))
    randomise(model, 0, 30.0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(tensor.half())
    cases = fixture_cases()
    content = {f"weights/{name}": tensor.half() for name, tensor in model.state_dict().items()}
    content |= {f"cases/{name}": tensor for name, tensor in cases.items()}
    content |= {
        f"answers/{name}": tensor
        for name, tensor in answers(model, cases).items()
        if not name.endswith("multi/masks")  # the largest, and low_res says the same
    }
    save_file(content, out)


def fixture_cases():
    """One small image that is not square, and every kind of prompt."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 6, 8, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (60, 92), mode="bicubic").clamp(0, 1)[0]
    image = (image.permute(1, 2, 0) * 255).to(torch.uint8).contiguous()
    boxes = torch.tensor([[5.0, 4.0, 40.0, 50.0], [30.5, 10.25, 90.0, 33.0], [0.0, 0.0, 92.0, 60.0]])
    points = torch.tensor([[40.0, 30.0], [10.0, 12.5], [70.0, 50.0], [88.0, 3.0], [55.5, 20.0]])
    labels = torch.tensor([1, 0, 1, 0, 1])
    mask = 8 * torch.randn(1, 32, 32, generator=generator)
    prompts = {
        "box": {"box": boxes[0]},
        "boxes": {"box": boxes},
        "box_points": {"box": boxes[0], "points": points[:2], "labels": labels[:2]},
        "one_point": {"points": points[:1], "labels": labels[:1]},
        "five_points": {"points": points, "labels": labels},
        "mask_point": {"points": points[:1], "labels": labels[:1], "mask": mask},
        "mask_box": {"box": boxes[1], "mask": mask},
    }
    cases = {f"wide.{name}/{key}": value.clone() for name, part in prompts.items() for key, value in part.items()}
    return cases | {"image/wide": image}


def inputs(out):
    """Small images of unusual shapes, and what the official preprocessing makes of them for an input of 32 pixels."""
    generator = torch.Generator().manual_seed(2)
    shapes = [(8, 8), (1, 700), (8000, 2), (60, 92), (20, 300)]
    images = {
        f"{height}x{width}": torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        for height, width in shapes
    }
    transforms = SAM2Transforms(32, 0.0)
    content = {f"image/{name}": image for name, image in images.items()}
    content |= {f"input/{name}": transforms(image.numpy()).contiguous() for name, image in images.items()}
    save_file(content, out)


def keys(out, *configs):
    """Names and shapes of the tensors of official models."""
    found = {config: {n: list(t.shape) for n, t in build(config).state_dict().items()} for config in configs}
    Path(out).write_text(json.dumps(found, separators=(",", ":")) + "\n")


COMMANDS = {f.__name__: f for f in (weights, predict, video, clip, transform, fixture, inputs, keys)}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
