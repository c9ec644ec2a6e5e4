"""What guidance keeps for its backward pass at the size of Stable Diffusion 1.4, counted without running it.

    python benchmarks/memory.py            # writes results/benchmarks/memory.json, half a minute

Shapes alone go through the networks (torch's meta device), and every tensor that autograd saves is counted once.
That is the part of the memory that checkpointing changes: with it, one step or one decoding is held at a time,
and a latent per step. The meta device knows no fused attention, so score matrices are counted as the published code
holds them; fused attention keeps less. The small pipeline, whose peak `guidance.py` measures, is counted too.
"""
import argparse
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import patch

import torch
from guidance import EVEN, networks

from logex_nb.core import environment, repo_root, write_json
from logex_nb.generate.guidance import evaluate
from logex_nb.generate.sampler import clean_latents


def saved(pipe, net, batch, steps, classifier_size):
    "GiB that autograd keeps of the sampling chain, and with decoding and classifying"
    known = {x.untyped_storage()._cdata for part in (pipe.unet, pipe.vae, net) for x in [*part.parameters(), *part.buffers()]}
    kept = {}

    def count(x):
        if (key := x.untyped_storage()._cdata) not in known: kept[key] = x # holding it keeps the key unique
        return x

    total = lambda: sum(x.untyped_storage().nbytes() for x in kept.values()) / 2**30
    unet, length = pipe.unet.config, pipe.tokenizer.model_max_length
    config = replace(EVEN, num_inference_steps=steps, loss_steps=1, classifier_size=classifier_size)
    leaf = lambda *shape: torch.empty(batch, *shape, device="meta", requires_grad=True)
    text = lambda: leaf(steps, length, unet.cross_attention_dim)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x), patch("torch.autocast", lambda *_, **__: nullcontext()):
        clean = clean_latents(pipe, leaf(unet.in_channels, unet.sample_size, unet.sample_size), text(), text())
        chain = total()
        evaluate(pipe, net, clean, torch.zeros(batch, dtype=torch.long), config)
    return chain, total()


def count(size, batch, classifier_size, steps=20, loss_steps=3):
    "Of one image in a batch, at the paper's number of steps"
    pipe, net = networks(size, "", "cpu")
    weights = sum(x.nbytes for part in (pipe.unet, pipe.vae, net) for x in part.parameters()) / 2**30
    for part in (pipe.unet, pipe.vae, net): part.to("meta")
    (one, whole), (two, _) = (saved(pipe, net, batch, n, classifier_size) for n in (1, 2))
    step, look = (two - one) / batch, (whole - one) / batch
    latents = steps * pipe.unet.config.in_channels * pipe.unet.config.sample_size**2 * 4 / 2**30
    return {k: round(v, 3) for k, v in dict(
        weights_gib=weights, step_gib=step, decoding_gib=look, kept_gib=steps * step + loss_steps * look,
        checkpointed_gib=max(step, look) + latents).items()} | dict(size=size, batch=batch, steps=steps, loss_steps=loss_steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(repo_root() / "results" / "benchmarks" / "memory.json"))
    args = parser.parse_args()
    found = [count("mini", 8, 0), count("sd14", 1, 256)]
    write_json(args.out, dict(what="guidance: saved for the backward pass per image, fp32, counted on shapes alone",
                              device="none", counted=found, environment=environment()))
    for row in found: print(row)


if __name__ == "__main__":
    main()
