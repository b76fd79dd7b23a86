"""One renderer for every MuJoCo world, without a display, and the choice of OpenGL behind it."""

# MuJoCo's compiled modules come without types:
# pyright: reportAttributeAccessIssue=false

import atexit
import contextlib
import copy
import ctypes
import importlib
import os
import sys
import weakref
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int32, UInt8

from apv_edu.envs.meshes import drawing_copy
from apv_edu.errors import InputError

Quality = Literal["exact", "fast"]
GL_PACKAGES = ("libegl1", "libopengl0", "libgl1-mesa-dri")
"""Debian's and Ubuntu's packages for drawing without a screen."""
INSTALL_GL = f"apt-get install -y --no-install-recommends {' '.join(GL_PACKAGES)}"
_EGL_DEVICE_PLATFORM = 0x313F  # EGL_PLATFORM_DEVICE_EXT


def egl_works() -> bool:
    """Whether some EGL device, a GPU or Mesa's software one, gives a display without a screen."""
    try:
        ctypes.CDLL("libOpenGL.so.0")
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    egl.eglGetProcAddress.restype = pointer
    egl.eglInitialize.argtypes = (pointer, pointer, pointer)
    query = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    display = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not (query and display):
        return False
    query_devices = ctypes.CFUNCTYPE(integer, integer, pointer, pointer)(query)
    get_display = ctypes.CFUNCTYPE(pointer, integer, pointer, pointer)(display)
    devices, found = (pointer * 16)(), integer(0)
    if not query_devices(16, devices, ctypes.byref(found)):
        return False
    displays = (
        get_display(_EGL_DEVICE_PLATFORM, device, None) for device in devices[: found.value]
    )
    return any(handle and egl.eglInitialize(handle, None, None) for handle in displays)


def osmesa_works() -> bool:
    """Whether Mesa's off-screen library is installed."""
    try:
        ctypes.CDLL("libOSMesa.so.8")
    except OSError:
        return False
    return True


def choose_gl() -> str:
    """Choose how MuJoCo draws, and tell MuJoCo and dm_control through ``MUJOCO_GL`` if it is unset.

    Returns the backend's name: on Linux ``egl``, else ``osmesa``, else ``glfw`` where there is a
    screen; on other systems their own. Call it before MuJoCo is imported; later calls are free.

    Raises:
        InputError: if no OpenGL is installed; names the line that installs it.
    """
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    if not sys.platform.startswith("linux"):
        return asked or ("cgl" if sys.platform == "darwin" else "glfw")
    if asked and f"mujoco.{asked}" in sys.modules:
        return asked
    probes = {
        "egl": egl_works,
        "osmesa": osmesa_works,
        "glfw": lambda: bool(os.environ.get("DISPLAY")),
    }
    if asked and asked not in probes:
        raise InputError(
            f"MUJOCO_GL={asked} cannot draw frames: unset it, or set it to egl, osmesa or glfw."
        )
    _load_triton()
    for backend in [asked] if asked else probes:
        if probes[backend]():
            os.environ["MUJOCO_GL"] = backend
            return backend
    wanted = f"MUJOCO_GL={asked} asks for an" if asked else "There is no headless"
    missing = "OpenGL that is not installed" if asked else "OpenGL to draw frames with"
    raise InputError(f"{wanted} {missing}: install it with `{INSTALL_GL}`.")


def _load_triton() -> None:
    """Load Triton, where PyTorch brings it, before Mesa.

    Later it would take Mesa's LLVM for its own and crash. The other way round they do not meet.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")


class Renderer:
    """Square frames of one MuJoCo model, from one camera, in a GL context of its own.

    ``exact`` is the simulator's default quality. ``fast`` leaves out multisampling, shadows,
    reflections and every detail too small for the picture (see ``drawing_copy``): far more frames a
    second on software OpenGL, on average within a few grey levels of ``exact`` (the floor loses its
    reflections). Either way the model itself stays as it is: OpenGL gets a copy's meshes and sizes.

    Args:
        model: an ``mujoco.MjModel``.
        size: height and width in pixels.
        camera: a camera's name or number in the model; -1 is MuJoCo's free camera.
        quality: ``exact`` or ``fast``.
        flip: turn the frame by half a turn, for a camera that hangs upside down.
        mirror: swap left and right.
        detail: height of the picture that decides what is too small to draw; by default ``size``.

    Raises:
        InputError: for an unknown camera or quality, or if there is no OpenGL.
    """

    def __init__(
        self,
        model: Any,
        size: int,
        camera: str | int,
        quality: Quality = "fast",
        flip: bool = False,
        mirror: bool = False,
        detail: int | None = None,
    ):
        backend = choose_gl()
        import mujoco

        if quality not in get_args(Quality):
            raise InputError(f"Unknown rendering {quality!r}: choose exact or fast.")
        self.model, self.size, self.camera = model, size, camera
        # readPixels returns the bottom row first, so a plain frame has its rows reversed.
        self._rows = slice(None) if flip else slice(None, None, -1)
        self._columns = slice(None, None, -1) if flip != mirror else slice(None)
        self._camera = _fixed_camera(model, camera)
        self._option = mujoco.MjvOption()
        self._scene = mujoco.MjvScene(model, maxgeom=10_000)
        if quality == "fast":
            drawn = drawing_copy(model, self._camera, self._option, detail or size)
            drawn.vis.quality.offsamples = drawn.vis.quality.shadowsize = 0
            drawn.vis.global_.offwidth = drawn.vis.global_.offheight = size
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        else:
            drawn = copy.copy(model)
            buffer = drawn.vis.global_
            buffer.offwidth = max(buffer.offwidth, size)
            buffer.offheight = max(buffer.offheight, size)
        # Taken from its module: right also where MuJoCo was imported before MUJOCO_GL was set.
        self._gl: Any = importlib.import_module(f"mujoco.{backend}").GLContext(size, size)
        self._gl.make_current()
        self._context: Any = mujoco.MjrContext(drawn, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._rectangle = mujoco.MjrRect(0, 0, size, size)
        self._pixels = np.empty((size, size, 3), np.uint8)
        # At exit MuJoCo and dm_control end the display; contexts must go before it, so this is kept
        # the last function registered, which is the first to run.
        _open.add(self)
        atexit.unregister(_close_all)
        atexit.register(_close_all)

    def render(self, data: Any) -> UInt8[np.ndarray, "size size 3"]:
        """Draw the simulator's present state, an ``mujoco.MjData``."""
        import mujoco

        if self._context is None:
            raise RuntimeError("This renderer is closed.")
        self._gl.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(
            self.model, data, self._option, None, self._camera, everything, self._scene
        )
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._rectangle, self._context)
        return self._pixels[self._rows, self._columns].copy()

    def segment(self, data: Any) -> Int32[np.ndarray, "size size"]:
        """Which thing of MuJoCo's scene each pixel shows, counted from 1, or 0 for none."""
        import mujoco

        flags = [mujoco.mjtRndFlag.mjRND_SEGMENT.value, mujoco.mjtRndFlag.mjRND_IDCOLOR.value]
        self._scene.flags[flags] = True
        colours = self.render(data)
        self._scene.flags[flags] = False
        return colours.astype(np.int32) @ np.array([1, 2**8, 2**16], np.int32)

    def driver(self) -> str:
        """OpenGL's name of what draws, such as ``llvmpipe (LLVM 15.0.6, 256 bits)`` or a GPU's."""
        from OpenGL import GL

        self._gl.make_current()
        return GL.glGetString(GL.GL_RENDERER).decode()

    def upload_terrain(self) -> None:
        """Send the model's height fields to OpenGL again, after a task has changed them."""
        import mujoco

        self._gl.make_current()
        for field in range(self.model.nhfield):
            mujoco.mjr_uploadHField(self.model, self._context, field)

    def close(self) -> None:
        """Free the OpenGL context and its memory; closing twice is allowed."""
        if self._context is None:
            return
        self._gl.make_current()
        self._context.free()
        self._gl.free()
        self._context = self._gl = None

    def __del__(self):
        if getattr(self, "_context", None) is not None:
            self.close()


_open: "weakref.WeakSet[Renderer]" = weakref.WeakSet()


def _close_all() -> None:
    for renderer in list(_open):
        renderer.close()


def _fixed_camera(model: Any, camera: str | int) -> Any:
    """The ``mujoco.MjvCamera`` called or numbered ``camera`` in ``model``."""
    import mujoco

    names = [model.camera(number).name or str(number) for number in range(model.ncam)]
    number = names.index(camera) if camera in names else camera
    if not isinstance(number, int) or not -1 <= number < model.ncam:
        raise InputError(
            f"There is no camera {camera!r} in this world: choose one of {', '.join(names)}, "
            f"its number, or -1 for the free camera."
        )
    view = mujoco.MjvCamera()
    if number == -1:
        mujoco.mjv_defaultFreeCamera(model, view)
    else:
        view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, number
    return view
