"""Equations and the functions that compute them: one table, links in both directions.

In a page ``$$ ... $$ (eq-name)`` numbers an equation; the table says who computes it. Under the
equation stands a link to the function's entry in ``book/api``; that entry names the equation.
"""

from typing import Any

from docutils import nodes
from sphinx import addnodes

EQUATIONS: dict[str, dict[str, list[str]]] = {
    "book/notation": {
        "eq-step": ["nets.rssm.RSSM.observe", "nets.rssm.RSSM.imagine"],
        "eq-loss": ["video_model.ActionFreeVideoModel.loss"],
    },
    "notebooks/02_latent_video_model": {
        "eq-gumbel": ["nets.distributions.gumbel"],
        "eq-straight-through": ["nets.distributions.straight_through"],
        "eq-gru": ["nets.layers.LayerNormGRU.forward"],
        "eq-rssm": ["nets.rssm.RSSM.advance", "nets.rssm.RSSM.prior", "nets.rssm.RSSM.observe"],
        "eq-image-loss": ["nets.distributions.unit_normal_nll"],
        "eq-kl-balance": ["nets.distributions.balanced_kl"],
        "eq-video-loss": ["video_model.ActionFreeVideoModel.loss"],
        "eq-kl-dice": ["nets.distributions.kl_divergence"],
    },
    "notebooks/03_pretraining": {"eq-mse": ["metrics.score"]},
    "notebooks/04_stacked_world_model": {
        "eq-two-storeys": ["world_model.StackedWorldModel.observe"],
    },
    "notebooks/05_imagination": {
        "eq-lambda-return": ["behavior.lambda_return"],
        "eq-truncated-normal": [
            "nets.truncated_normal.TruncatedNormal.log_prob",
            "nets.truncated_normal.TruncatedNormal.sample",
        ],
        "eq-slope": ["nets.truncated_normal.slopes"],
        "eq-actor-loss": ["behavior.Behavior.losses"],
        "eq-critic-loss": ["behavior.Behavior.losses"],
        "eq-reinforce": ["behavior.Behavior.losses"],
    },
    "notebooks/06_intrinsic_bonus": {
        "eq-distance": ["bonus.VideoBonus.distance"],
        "eq-reward": ["world_model.StackedWorldModel.loss"],
    },
}
"""By page and label: the functions of the package that compute the equation."""


def link_to_functions(app: Any, doctree: nodes.document) -> None:
    """Put a line with the functions under each equation of the table."""
    known = EQUATIONS.get(app.env.docname, {})
    for equation in [*doctree.findall(nodes.math_block)]:
        if (label := equation.get("label")) not in known:
            continue
        line = nodes.paragraph("", "Computed by ", classes=["apv-computed-by"])
        for i, name in enumerate(known[label]):
            line += nodes.Text(", " * bool(i))
            line += addnodes.pending_xref(
                "",
                nodes.literal("", f"{short(name)}()", classes=["xref", "py", "py-func"]),
                refdomain="py",
                reftype="func",
                reftarget=f"apv_edu.{name}",
                refexplicit=True,
                refwarn=True,
                refdoc=app.env.docname,
            )
        equation.parent.insert(equation.parent.index(equation) + 1, line)


def short(name: str) -> str:
    """A function by its name, a method with its class."""
    *_, owner, function = name.split(".")
    return f"{owner}.{function}" if owner[0].isupper() else function


def link_to_equations(
    app: Any, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Add the equations that a function computes to its entry."""
    for page, equations in EQUATIONS.items():
        for label, functions in equations.items():
            if name.removeprefix("apv_edu.") in functions:
                lines += ["", f"Computes equation :eq:`{label}` of :doc:`/{page}`."]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx. After napoleon's 500, so that no section of a docstring swallows it."""
    app.connect("doctree-read", link_to_functions)
    app.connect("autodoc-process-docstring", link_to_equations, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
