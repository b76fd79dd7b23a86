"""The Control Suite's quadruped with a leg less: another body for videos than the tasks have.

Videos of such a body are reported for "APV (Locomotion)" (Seo et al., 2022). Which leg it lacked
is not known here: the choice is ours.
"""

from typing import Any

TASKS = ("tripod-walk", "tripod-run")
LEG = "front_left"
"""The missing one. At rest the body falls over to where it was; it stands when its neighbours reach
there."""


def without_leg(model: bytes, leg: str = LEG) -> bytes:
    """The quadruped's MJCF without one leg: its bodies, tendons, actuators and sensors.

    Args:
        model: XML, as the suite's ``quadruped.make_model`` makes it.
        leg: what the names of all its parts hold, such as ``front_left``.
    """
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

    root = etree.XML(model)
    for part in root.xpath("//*[contains(@name, $leg)]", leg=leg):
        part.getparent().remove(part)
    return etree.tostring(root)


def load(name: str, settings: dict[str, Any]) -> Any:
    """The quadruped's task ``name`` for three legs: rewards, floor and starts are the suite's.

    Actions are yaw, lift and extension of each leg, 9 in all, where the quadruped has 12.

    Args:
        name: ``walk`` or ``run``.
        settings: what ``dm_control.suite`` gives to a task: its ``random`` and ``time_limit``.
    """
    from dm_control import suite
    from dm_control.suite import common, quadruped

    world: Any = suite.load("quadruped", name, task_kwargs=settings)
    floor = world.physics.named.model.geom_size["floor", "x"]
    model = without_leg(quadruped.make_model(floor_size=floor))
    world.physics.reload_from_xml_string(model, common.ASSETS)
    return world
