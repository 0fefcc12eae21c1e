"""Every option of a run, as plain dataclasses: they become YAML keys and command-line flags one to one."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class ModelConfig:
    """Which dense model to prune.

    Attributes:
        name: A timm model name, a folder written by ``xpruner.save``, a folder written by transformers'
            ``save_pretrained``, or ``transformers:`` and a name on its hub.
        checkpoint: Weights to load into it: safetensors, or another format of timm's ``load_checkpoint``, pickles with
            ``weights_only=True``; averaged weights are preferred, as in timm.
        pretrained: Ask timm for its published weights (needs a network).
        num_classes: Outputs of the classifier; the data's number of classes when absent.
        img_size: Input side in pixels; the model's own when absent.
        mean: Of each channel, for pixels in 0..1; overrides the value of the model's folder or library, as do the four
            below.
        std: Of each channel, for pixels in 0..1.
        interpolation: Of resizing.
        crop_pct: Side of the crop over the side of the resized image; 1 for no crop.
        crop_mode: How other aspect ratios are handled, in timm's words: cropped (``center``), distorted (``squash``) or
            padded (``border``).
        kwargs: Further arguments of an architecture of timm, such as ``depths`` or ``embed_dim``, or fields of a
            configuration of transformers; plain values only, none that run code or fetch files.
    """

    name: str = "deit_tiny_patch16_224"
    checkpoint: str | None = None
    pretrained: bool = False
    num_classes: int | None = None
    img_size: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] | None = None
    crop_pct: float | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataConfig:
    """Which images, and how many of them for what.

    Attributes:
        name: ``digits``, ``cifar10``, ``imagenet``, or a path: a folder of class folders (or of ``train`` and
            ``test``/``val`` folders of class folders), a folder of parquet files, or any dataset name that
            ``timm.data.create_dataset`` reads, such as ``hfds/user/name``.
        root: Where a named dataset lies on disk; absent, it is fetched from the hub.
        class_order: How class folders are ordered into labels, where the model does not know the names of its classes:
            ``natural`` (``2`` before ``10``, as timm), ``alphabetical`` (as torchvision and datasets), or a text file
            with one class on each line.
        train_size: At most this many training images (after the held-out ones are set aside); all when absent.
        val_size: Images held out of the training set for tuning, the same for every seed; 0 for none.
        test_size: At most this many test images; all when absent.
        test_share: Share of the training images held out for testing where a dataset has no test images of its own.
        calibration_size: Training images for compensation statistics and first-order evidence.
        batch_size: Images a step.
        workers: Loader processes.
        cache: Keep decoded and resized images in the memory of the process that loads them: for small images and many
            epochs, without loader processes. At 96 px 50,000 images take 1.4 GB.
        augment: ``light`` (flip and a shift of 1/32 of the side), ``timm`` (RandAugment and random erasing), ``none``.
        max_unreadable: Unreadable images that are skipped; with more, the data are refused.
    """

    name: str = "digits"
    root: str | None = None
    class_order: str = "natural"
    train_size: int | None = None
    val_size: int = 0
    test_size: int | None = None
    test_share: float = 0.2
    calibration_size: int = 1024
    batch_size: int = 64
    workers: int = 0
    cache: bool = False
    augment: Literal["light", "timm", "none"] = "light"
    max_unreadable: int = 10


@dataclass
class MaskConfig:
    """How the explainability-aware masks are learned; the weights are frozen meanwhile.

    Attributes:
        evidence: Initial masks: ``none`` sets all to ``init``; the others are class evidence from the calibration
            images. First-order evidence of the whole unit (``taylor``), of the part that the other units cannot
            compensate for (``irreplaceable``), or of the part that the units still kept cannot, by backward elimination
            (``at_removal``, sequential evidence); relevance propagated to units (``relevance``); or a signal registered
            under that name by ``signals.register_signal``.
        whole: Share of whole-unit (``taylor``) evidence in sequential evidence: 0 assumes that compensation recovers
            all that it can, 1 that it recovers nothing, as where ``compensate.mode`` is ``none``.
        temperature: Divides the logits in the cross-entropy that evidence is measured by; at 1, training images of
            which the model is certain give little evidence.
        steps: Gradient updates.
        lr: Learning rate of Adam on the mask logits.
        init: Value of every mask at the start, when there is no evidence.
        rank: Rank of the class-by-unit table; absent for a full one.
        wrong: Share of a batch gated by a random wrong class, whose mask must not turn the image into that class.
        mean: Share of a batch gated by the class-mean mask, which must keep the prediction of the dense model.
        sparsity: Weight of the cost-weighted mean of the masks.
        smooth: Smoothness regulariser: variance across ``class``, total variation along ``unit``, change in ``time``.
        smooth_weight: Its weight.
    """

    evidence: str = "at_removal"
    whole: float = 0.3
    temperature: float = 1.0
    steps: int = 0
    lr: float = 0.02
    init: float = 0.95
    rank: int | None = None
    wrong: float = 0.25
    mean: float = 0.5
    sparsity: float = 0.1
    smooth: Literal["none", "class", "unit", "time"] = "class"
    smooth_weight: float = 0.1


@dataclass
class ThresholdConfig:
    """How masks become a plan.

    Attributes:
        mode: ``learned`` layer-wise thresholds, or ``global_rank`` by the masks alone (the first version of the paper).
        form: Pruning operation: ``power`` s^n / (s^n + theta^n), or ``sigmoid`` of n (s - theta).
        importance: How a unit's masks over the classes become one number s.
        slope_start: Slope n at the start; where a search starts with all gates open, relative to the spread of a
            layer's importance.
        slope_end: Slope n at the end.
        steps: Gradient updates.
        lr: Learning rate of Adam on the thresholds.
        mask_lr: Learning rate on the masks, refined together with the thresholds; 0 leaves them as they are.
        constraint: How the budget is enforced: augmented ``lagrangian``, squared ``hinge``, or ``projected``, a common
            offset of all thresholds that meets it at every step.
        warmup: Share of the steps during which the allowed cost falls from the dense model's to the budget.
        compensated: Search on the hard-pruned, compensated network (straight-through) instead of a soft-gated one.
        refit_every: Steps between two solves of that compensation.
        distill: Learn from the dense model's outputs instead of the labels.
    """

    mode: Literal["learned", "global_rank"] = "learned"
    form: Literal["power", "sigmoid"] = "power"
    importance: Literal["mean", "max", "abs_sum", "odds"] = "odds"
    slope_start: float = 2.0
    slope_end: float = 4.0
    steps: int = 0
    lr: float = 0.01
    mask_lr: float = 0.0
    constraint: Literal["lagrangian", "hinge", "projected"] = "projected"
    warmup: float = 0.0
    compensated: bool = True
    refit_every: int = 10
    distill: bool = True


@dataclass
class SearchConfig:
    """Options of the other methods' searches; X-Pruner has ``rounds``, ``masks`` and ``thresholds``.

    Attributes:
        allocation: How a method that only scores units shares the budget among layers: ``uniform``, ``global`` (per
            cost) or ``block`` (per cost, each block's scores normalised); ``own`` is the method's default.
        steps: Updates of a search that trains weights.
        options: A method's own options by name, where it has some.
    """

    allocation: Literal["own", "uniform", "global", "block"] = "own"
    steps: int = 600
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class CompensateConfig:
    """How the consumers of cut units compensate for them.

    Attributes:
        mode: ``affine`` and ``mean`` fit on the dense model's activations; ``sequential`` fits block by block on the
            pruned model's, aiming at the dense residual stream; ``heal`` starts there and tunes all weights that are
            left on the calibration images, without labels; ``none`` leaves the weights alone.
        ridge: Smallest ridge, as a share of the mean variance of the consumer's input.
        focus: In ``sequential`` and ``heal``, the share of a token's weight that comes from the sensitivity of the
            logits to tokens at its position; the rest is equal for all tokens. Absent, all of it is equal.
        steps: Of ``heal``: updates of a block.
        lr: Of ``heal``: peak rate of Adam.
    """

    mode: Literal["affine", "heal", "mean", "none", "sequential"] = "sequential"
    ridge: float = 1e-3
    focus: float | None = 0.7
    steps: int = 300
    lr: float = 5e-4


@dataclass
class FinetuneConfig:
    """Training after surgery, with distillation from the dense model.

    Attributes:
        epochs: Passes over the training images; 0 leaves the compensated model as it is.
        steps: Updates in all; overrides ``epochs`` where set.
        lr: Peak learning rate of AdamW.
        min_lr: Learning rate at the end of the cosine.
        warmup: Share of all steps with a rising rate.
        weight_decay: For weight matrices; biases, norms and tokens are exempt.
        clip_grad: Largest gradient norm.
        distill: Weight of the distillation loss; the rest is that of the loss on labels.
        teacher: A timm model with its published weights, or a saved folder, to distil from; absent, the dense model.
        temperature: Softmax temperature of the distillation.
        features: Weight of the distance to the output of the dense model's last block, as a share of its variance,
            added to the losses above; 0 for none.
        label_smoothing: Of the cross-entropy on labels.
        mixup: timm's mixup alpha; 0 for none.
        cutmix: timm's cutmix alpha; 0 for none.
        ema_decay: Decay of timm's weight averaging (ModelEmaV3 with warm-up); 0 for none.
        cuda_graph: Replay every step as one CUDA graph, on one GPU and not in fp16: for models so small that launching
            their kernels takes longer than running them.
        checkpoint_every: Steps between checkpoints of the training state.
    """

    epochs: int = 3
    steps: int | None = None
    lr: float = 2e-4
    min_lr: float = 1e-6
    warmup: float = 0.05
    weight_decay: float = 0.05
    clip_grad: float = 1.0
    distill: float = 0.9
    teacher: str | None = None
    temperature: float = 1.0
    features: float = 0.0
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_decay: float = 0.0
    cuda_graph: bool = False
    checkpoint_every: int = 200


@dataclass
class RunConfig:
    """A whole run: what is pruned, on which images, how far and how.

    Attributes:
        preset: Where the defaults of ``masks``, ``thresholds``, ``compensate`` and ``finetune`` come from: ``default``
            (what measures best) or ``paper`` (only what the sources state).
        budget: Largest cost of the pruned model: ``0.5``, ``600M``, ``params:0.4``, ...
        output: The run directory; the same command resumes an unfinished run in it.
        model: The dense model.
        data: The images.
        units: Kinds of unit to prune: ``head``, ``hidden``, ``qk``, ``v``, ``embed``, ``block``; absent, those of the
            method that the model offers, for X-Pruner the first four.
        round_to: Makes every kept width of a kind of unit a multiple of a number, such as ``{hidden: 16}``.
        rotate: Where ``qk`` or ``v`` are pruned, first rotate every head so that its dimensions are sorted by
            contribution; absent, the method's default: X-Pruner and CORP rotate.
        method: Pruning method that makes the plan.
        rounds: Iterative rounds of X-Pruner: importance is re-estimated after each cut and compensation.
        max_class_drop: Percentage points of top-1 that no class may lose under X-Pruner's plan, after compensation and
            before training, measured on training images; absent, classes are not guarded.
        masks: Stage 1 of X-Pruner.
        thresholds: Stage 2 of X-Pruner.
        search: What the other methods' searches may use.
        compensate: After surgery.
        finetune: After compensation.
        seed: Of everything.
        precision: Of forward passes in training and search: ``fp32``, ``bf16`` or ``fp16``; ``auto`` is the faster of
            bf16 and fp32 on this machine; a resumed run keeps its precision.
        latency: Batch sizes at which the dense and the pruned model are timed; empty for none.
    """

    preset: Literal["default", "paper"] = "default"
    budget: str = "0.5"
    output: str = "runs/xpruner"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    units: list[str] | None = None
    round_to: dict[str, int] = field(default_factory=dict)
    rotate: bool | None = None
    method: str = "xpruner"
    rounds: int = 5
    max_class_drop: float | None = None
    masks: MaskConfig = field(default_factory=MaskConfig)
    thresholds: ThresholdConfig = field(default_factory=ThresholdConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    compensate: CompensateConfig = field(default_factory=CompensateConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    latency: list[int] = field(default_factory=lambda: [1, 32])
