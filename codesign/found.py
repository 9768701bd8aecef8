"""What a search found, as rows: its front, a data frame, a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from codesign.errors import UserError

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


class Found:
    """Designs, as designs.json has them.

    Attributes:
      designs: one dict a design: "name", "architecture", "accelerator", "scenario", "costs" and
        what else is known of it, such as "accuracy".
    """

    designs: list[dict[str, Any]]

    def front(self) -> list[dict[str, Any]]:
        """The designs that no other beats, each once.

        Of a search in accuracy and carbon, from the least carbon on; of a hardware search in
        latency and carbon, from the fastest on.
        """
        # A hardware search lists a chip of its front again where it is the best of something.
        repeated = any(_is_of_hardware(design) for design in self.designs)
        front = [
            design
            for design in self.designs
            if design.get("pareto") and (not repeated or _is_of_hardware(design))
        ]
        if self._are_measured():
            from codesign.report.entries import cost

            front.sort(key=lambda design: cost(design, "carbon_kgco2e") or 0.0)
        return front

    def to_pandas(self) -> pandas.DataFrame:
        """One row a design, one column a number: "name", "costs.latency_s", "accuracy", ...

        Raises:
          UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("to_pandas needs pandas: pip install pandas") from None
        return pandas.json_normalize(self.designs)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Accuracy against carbon; of a hardware search, carbon against latency.

        Args:
          axes: to draw on; default: those of a new figure, `axes.figure`, which pyplot does not
            know and nobody needs to close.

        Returns:
          The axes.

        Raises:
          UserError: there are no designs with costs.
        """
        from codesign.report.hardware import front_axes
        from codesign.report.plots import pareto_axes

        drawn = pareto_axes(self.designs, axes) if self._are_measured() else None
        if drawn is None and any(_is_of_hardware(design) for design in self.designs):
            drawn = front_axes(self.designs, axes)
        if drawn is None:
            raise UserError("there is nothing to plot: no designs that were measured or priced")
        return drawn

    def _are_measured(self) -> bool:
        return any(design.get("accuracy") is not None for design in self.designs)


def _is_of_hardware(design: dict[str, Any]) -> bool:
    """Whether a hardware search lists the design as one of its front; see report/hardware.py."""
    return str(design.get("name")).startswith("front-") and "costs" in design
