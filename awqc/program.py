"""`Program`: what flows through the pipeline.

A program is one flat graph (tensors in, a tuple of tensors out), its weights, and what the
passes have learned about it so far, in frozen records. The caller's module is cloned
at entry; nothing here ever touches it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from awqc.errors import UnsupportedGraphError
from awqc.findings import Findings
from awqc.graph.choices import choosing
from awqc.graph.nodes import fake_like, fake_mode_of, open_sizes
from awqc.numerics.request import QuantizationSpec

CPU = torch.device("cpu")

Batch = dict[str, Tensor]
"""One batch of inputs: a tensor for each input name."""


TEXT, IMAGE, AUDIO = "text", "image", "audio"
Kinds = tuple[str, ...]
"""Kinds of data that a model reads, of these three."""
MEDIA = frozenset({IMAGE, AUDIO})
"""Kinds that come in files of their own."""


Transform = Callable[[Any], Any]
"""Makes a model's input, or its inputs by name, of one image, without a batch axis."""


@dataclass(frozen=True)
class InputSpec:
    """A tensor input of the graph.

    Attributes:
        name: the input's name in every artifact. Inputs and placeholders go together by
            order: a name may hold what a placeholder's may not, such as a dot.
        dtype: what the caller feeds.
        shape: sizes; a str is a dynamic axis, named by its symbol (equal symbols are
            equal sizes).
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        dims = ",".join(str(size) for size in self.shape)
        return f"{self.name}={str(self.dtype).removeprefix('torch.')}[{dims}]"


@dataclass(frozen=True)
class CallSpec:
    """How the caller's module is called, so that artifacts can be called the same way.

    Attributes:
        in_spec: tree of ``(args, kwargs)``; its leaves are the graph's inputs in order.
        out_spec: tree of the result; its tensor leaves are the graph's outputs in order.
        constants: leaves of ``in_spec``, by index, that are no tensors (None, numbers,
            flags); they were fixed when the graph was captured.
        out_constants: the same for leaves of ``out_spec``; the graph returns the others.
    """

    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    constants: dict[int, Any] = field(default_factory=dict)
    out_constants: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """The Hugging Face folder that a program was captured from.

    Attributes:
        path: the folder.
        gguf_file: name of the GGUF file in it that is the model, or None for safetensors.
        trust_remote_code: whether Python files of the folder may run.
    """

    path: Path
    gguf_file: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Interface:
    """What goes into a program and what comes out.

    Attributes:
        inputs: the tensor inputs.
        outputs: names of the outputs, in order.
        call: how the caller's module was called.
        example: one batch that fits ``inputs``.
        states: pairs (input, output) of a carried state such as a KV cache: what leaves
            through the output comes back through the input at the next call.
        steps: by the name of a free axis, what its sizes are multiples of, where that is not 1.
    """

    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    call: CallSpec
    example: Batch
    states: tuple[tuple[str, str], ...] = ()
    steps: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What kind of model a program is.

    Attributes:
        mask_input: name of the input ``(batch, tokens)`` that is 0 where a token is padding,
            which statistics and measures leave out.
        head_outputs: names of outputs that are logits over a vocabulary.
        origin: the Hugging Face folder that it was captured from, or None.
        reads: the kinds of data of which its folder makes inputs; none: it takes arrays.
        transform: what makes its inputs of an image, where the user's own code says so.
        paired: whether it reads a text and an image together in each sample.
    """

    mask_input: str | None = None
    head_outputs: tuple[str, ...] = ()
    origin: Origin | None = None
    reads: Kinds = ()
    transform: Transform | None = None
    paired: bool = False


@dataclass
class Program:
    """A model on its way through the compiler.

    Batches and what the original gives for them belong to a run, not to the program.

    Attributes:
        name: for messages and file names.
        graph_module: flat graph of aten calls; its placeholders are ``inputs``, in order.
        interface: what goes in and what comes out.
        task: what kind of model it is.
        quantization: which weights are to be quantized, and how finely.
        source_dtype: the floating dtype that the model had when it came; passes
            compute in float32 whatever it is.
        files: the file or folder that it was loaded from, if it was.
        scale_dtype: floating dtype of the quantization scales in the artifacts.
        findings: what passes learned about this graph.
        notes: what a user must know of the captured graph.
        device: where ``graph_module`` computes; what goes in and comes out lies in ordinary memory.
        shared: weights that other programs of one model hold too, each with where; they take
            no scale and are rounded to nearest, so that their codes are the same everywhere.
    """

    name: str
    graph_module: GraphModule
    interface: Interface
    task: Task = field(default_factory=Task)
    files: tuple[Path, ...] = ()
    quantization: QuantizationSpec = field(default_factory=QuantizationSpec)
    source_dtype: torch.dtype = torch.float32
    scale_dtype: torch.dtype = torch.float32
    findings: Findings = field(default_factory=Findings)
    notes: tuple[str, ...] = ()
    shared: Mapping[str, str] = field(default_factory=dict)
    device: torch.device = CPU

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The tensor inputs."""
        return self.interface.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return self.interface.outputs

    @property
    def example(self) -> Batch:
        """One batch that fits ``inputs``."""
        return self.interface.example

    @property
    def states(self) -> tuple[tuple[str, str], ...]:
        """Pairs (input, output) of a carried state."""
        return self.interface.states

    @property
    def mask_input(self) -> str | None:
        """Name of the input that is 0 where a token is padding."""
        return self.task.mask_input

    @property
    def head_outputs(self) -> tuple[str, ...]:
        """Names of outputs that are logits over a vocabulary."""
        return self.task.head_outputs

    def tell(self, note: str) -> None:
        """Add ``note`` to what a user must know, once."""
        if note not in self.notes:
            self.notes = (*self.notes, note)

    @property
    def graph(self) -> torch.fx.Graph:
        """The graph of ``graph_module``."""
        return self.graph_module.graph

    def run(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Outputs for one batch, without gradients."""
        given = self.placed(batch)
        with torch.no_grad(), choosing(self.graph):
            return self.brought_back(self.graph_module(*(given[spec.name] for spec in self.inputs)))

    def placed(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs in ``batch`` where the graph computes; some of a segment's are sizes."""
        return {spec.name: _on(self.device, batch[spec.name]) for spec in self.inputs}

    def brought_back(self, outputs: Sequence[Any]) -> tuple[Any, ...]:
        """``outputs`` in ordinary memory."""
        if self.device == CPU:
            return tuple(outputs)
        return tuple(_on(CPU, each) for each in outputs)

    def check_batch(self) -> Batch:
        """The example with carried states at zero, which a scaled state is as well."""
        carried = {name for name, _ in self.states}
        return {
            name: torch.zeros_like(value) if name in carried else value
            for name, value in self.example.items()
        }

    def scaled_outputs(self) -> set[str]:
        """Outputs that carry a state; a fold may scale it, as long as it comes back the same."""
        return {output for _, output in self.states}

    def learn(self, **found: Any) -> None:
        """Put what a pass found in place of these fields of ``findings``."""
        self.findings = replace(self.findings, **found)

    def clone(self) -> Program:
        """A copy whose graph and weights can be edited: no node and no parameter is shared.

        Shared are the frozen records (interface, task, request, findings), with the tensors
        that they hold, and the observers in the graph.
        """
        return replace(self, graph_module=copy.deepcopy(self.graph_module))

    def variant(self) -> Program:
        """As `clone`, with the same tensors: one is put in place of another, none is changed."""
        module = self.graph_module
        same = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        return replace(self, graph_module=copy.deepcopy(module, same))

    def parameters(self) -> dict[str, Tensor]:
        """All tensors that the graph reads, by name; they may be kept in half precision."""
        names = dict.fromkeys(str(n.target) for n in self.graph.nodes if n.op == "get_attr")
        return {name: self.kept(name) for name in names}

    def weight(self, name: str) -> Tensor:
        """The tensor called ``name`` (a dotted path), in the dtype that the graph reads.

        Raises:
            UnsupportedGraphError: there is none.
        """
        return self.kept(name).detach()

    def kept(self, name: str) -> Tensor:
        """The tensor called ``name`` as it is kept, which may be in half precision.

        Raises:
            UnsupportedGraphError: there is none.
        """
        module, _, leaf = name.rpartition(".")
        try:
            value = getattr(self.graph_module.get_submodule(module), leaf)
        except AttributeError:
            raise UnsupportedGraphError(f"{self.name}: the graph has no tensor {name!r}") from None
        assert isinstance(value, Tensor), name
        return value

    def set_weight(self, name: str, value: Tensor) -> None:
        """Store ``value`` under ``name``, making the modules on the way if they are missing.

        A tensor that stands where a module is needed gives way to it.
        """
        path, _, leaf = name.rpartition(".")
        module: torch.nn.Module = self.graph_module
        for part in path.split(".") if path else ():
            if not isinstance(getattr(module, part, None), torch.nn.Module):
                if hasattr(module, part):
                    delattr(module, part)
                module.add_module(part, torch.nn.Module())
            module = module.get_submodule(part)
        if hasattr(module, leaf):
            delattr(module, leaf)
        module.register_buffer(leaf, value.detach())

    def fresh_name(self, name: str) -> str:
        """``name``, or ``name_1``, ``name_2``, … if a tensor or module has it already.

        Dots give way where a tensor stands on the path: ``weight.scale`` is ``weight_scale``.
        """
        tensors = {key for key, _ in self.graph_module.named_parameters()}
        tensors |= {key for key, _ in self.graph_module.named_buffers()}
        taken = tensors | {key for key, _ in self.graph_module.named_modules()}
        parts = name.split(".")
        if any(".".join(parts[:end]) in tensors for end in range(1, len(parts))):
            name = "_".join(parts)
        candidate, count = name, 0
        while candidate in taken:
            count += 1
            candidate = f"{name}_{count}"
        return candidate

    def add_weight(self, name: str, value: Tensor, before: Node) -> Node:
        """Store ``value`` under ``name`` and return a node that reads it, put before ``before``."""
        self.set_weight(name, value)
        with self.graph.inserting_before(before):
            node = self.graph.get_attr(name)
        node.meta["val"] = fake_like(value, before)
        return node

    def call_op(
        self, before: Node, target: Any, *args: Any, like: Node | None = None, **kwargs: Any
    ) -> Node:
        """Insert ``target(*args, **kwargs)`` before ``before``, with its shape and dtype known.

        ``like`` is the node whose place in the module tree the new one takes
        (``before`` if None).
        """
        with self.graph.inserting_before(before):
            node = self.graph.call_function(target, args, kwargs)
        origin = before if like is None else like
        if "nn_module_stack" in origin.meta:
            node.meta["nn_module_stack"] = origin.meta["nn_module_stack"]
        fake_args, fake_kwargs = torch.fx.node.map_arg((args, kwargs), lambda n: n.meta["val"])
        mode = fake_mode_of(fake_args)
        if mode is None:
            node.meta["val"] = target(*fake_args, **fake_kwargs)
        else:
            with open_sizes(mode):
                node.meta["val"] = target(*fake_args, **fake_kwargs)
        return node

    def tidy(self) -> None:
        """Drop dead nodes and the tensors and modules nobody reads, and recompile."""
        self.graph.eliminate_dead_code()
        self.graph_module.delete_all_unused_submodules()
        used = {str(n.target) for n in self.graph.nodes if n.op in ("get_attr", "call_module")}
        for owner_name, owner in list(self.graph_module.named_modules()):
            prefix = f"{owner_name}." if owner_name else ""
            if owner_name in used:
                continue
            for leaf in [*owner._parameters, *owner._buffers]:
                if prefix + leaf not in used:
                    delattr(owner, leaf)
        self.graph_module.recompile()


def bind_batch(specs: Sequence[InputSpec], tensors: Sequence[Tensor]) -> Batch:
    """Name ``tensors`` after ``specs``, in order."""
    return {spec.name: tensor for spec, tensor in zip(specs, tensors, strict=True)}


def _on(device: torch.device, value: Any) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
