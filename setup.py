"""Put yolov5_sparse_plugin.pth at the root of wheels; everything else is in setup.cfg.

A .pth file has no place in setuptools' declarative metadata. Regular wheels get it from build_py;
editable wheels skip build_py's output and take it from the strategy that writes their own .pth.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

SOURCE = Path(__file__).parent / "yolov5_sparse_plugin" / "autoload.pth"
TARGET = "yolov5_sparse_plugin.pth"


class BuildWithPth(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:
            self.copy_file(str(SOURCE), str(Path(self.build_lib) / TARGET), preserve_mode=False)

    def get_outputs(self, include_bytecode=True):
        return super().get_outputs(include_bytecode) + [str(Path(self.build_lib) / TARGET)]


class EditableWithPth(editable_wheel):
    def _select_strategy(self, *args):
        strategy = super()._select_strategy(*args)

        class WithPth(type(strategy)):
            def __call__(self, wheel, files, mapping):
                super().__call__(wheel, files, mapping)
                wheel.writestr(TARGET, SOURCE.read_text())

        strategy.__class__ = WithPth
        return strategy


setup(cmdclass={"build_py": BuildWithPth, "editable_wheel": EditableWithPth})
