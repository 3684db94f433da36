"""tandem init-model"""

from pathlib import Path
from typing import Annotated

import typer


def init_model(
    directory: Annotated[Path, typer.Argument(help="Where to write the model.", show_default=False)],
    job: Annotated[
        Path | None, typer.Option(help="Take the model of this RLJob (spec.model.scratch) and its seed.")
    ] = None,
    architecture: Annotated[str, typer.Option(help="qwen3, qwen3_moe or llama.")] = "qwen3",
    tokens: Annotated[str, typer.Option(help="The vocabulary: each character is a token.")] = "0123456789+-*/=() ",
    hidden_size: Annotated[int, typer.Option(help="Width of the residual stream.")] = 64,
    intermediate_size: Annotated[int, typer.Option(help="Width of the feed-forward layer.")] = 256,
    layers: Annotated[int, typer.Option(help="Number of layers.")] = 2,
    attention_heads: Annotated[int, typer.Option(help="Number of query heads.")] = 4,
    key_value_heads: Annotated[int, typer.Option(help="Number of key and value heads.")] = 2,
    head_size: Annotated[int, typer.Option(help="Width of a head.")] = 32,
    experts: Annotated[int, typer.Option(help="Number of experts, for qwen3_moe.")] = 0,
    max_length: Annotated[int, typer.Option(help="Longest sequence in tokens.")] = 2048,
    seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
) -> None:
    """Make a model of random weights in Hugging Face format: config, tokenizer and safetensors.

    A job uses it by `spec.model.path`. For one's own weights to begin with; a job can also make its model itself, with
    `spec.model.scratch`.

    Examples:

    - `tandem init-model models/tiny --layers 4 --hidden-size 128`
    - `tandem init-model models/addition --job examples/addition.yaml`
    - `tandem init-model models/experts --architecture qwen3_moe --experts 8`
    """
    from tandem_local.new_model import build_scratch_model, load_scratch_model, write_model

    if job is not None:
        scratch, seed = load_scratch_model(job)
    else:
        scratch = build_scratch_model(
            architecture=architecture,
            tokenizer={"tokens": list(tokens)},
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            layers=layers,
            attention_heads=attention_heads,
            key_value_heads=key_value_heads,
            head_size=head_size,
            experts=experts,
            max_length=max_length,
        )
    parameters = write_model(scratch, seed, directory)
    print(f"{directory}: {parameters:,} parameters; in a job: spec.model.path: {directory.absolute()}")
