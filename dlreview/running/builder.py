"""From a recipe's sections to objects: jsonargparse builds them, as LightningCLI uses it."""

from __future__ import annotations

import argparse
import copy
import enum
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse import Namespace

from dlreview.limits import within_memory
from dlreview.messages import UserError, one_line
from dlreview.running.complaints import explain
from dlreview.running.signatures import sections

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule


class Section:
    """One section of a recipe: checked when made, built on demand.

    Args:
        name: "data", "model" or "trainer".
        tree: its value.

    Raises:
        UserError: a key, a type or a class is wrong.
    """

    def __init__(self, name: str, tree: Any) -> None:
        from lightning.pytorch import LightningDataModule, LightningModule, Trainer
        from lightning.pytorch.cli import LightningArgumentParser

        if tree is None and name != "trainer":
            raise UserError(name, "this section is missing", "needs class_path and init_args")
        self.name, self.tree = name, tree
        self.parser = LightningArgumentParser(exit_on_error=False)
        kinds = {"data": LightningDataModule, "model": LightningModule, "trainer": Trainer}
        self.parser.add_lightning_class_args(kinds[name], name, subclass_mode=name != "trainer")
        try:
            # A copy, since the parser writes into the lists of what it reads.
            self.parsed = self.parser.parse_object({name: copy.deepcopy(tree) or {}})
        except argparse.ArgumentError as error:
            raise explain(name, str(error), tree) from None
        except (TypeError, ValueError, KeyError) as error:
            raise explain(name, str(error), tree) from None

    def build(self) -> Any:
        """Construct what the section names; of the trainer, its arguments.

        Raises:
            UserError: a constructor refused its arguments; the message names its section.
        """
        faults: list[tuple[type, Exception]] = []

        def construct(cls: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return cls(*args, **kwargs)
            except Exception as error:
                faults.append((cls, error))
                raise

        try:
            with within_memory():
                found = self.parser.instantiate(
                    self.parsed,
                    instantiate_groups=False,
                    instantiators=[(construct, object, True)],
                )
        except Exception as error:
            raise self._refusal(*(faults[0] if faults else (None, error))) from error
        return found[self.name]

    def _refusal(self, cls: type | None, error: Exception) -> UserError:
        """Tell what a constructor said, under the key of its section."""
        if isinstance(error, UserError):
            return error
        keys = [key for key, _, found in sections(self.tree, self.name) if found is cls]
        problem, _, hint = str(error).partition("\n")
        return UserError(keys[0] if keys else self.name, problem or type(error).__name__, hint)

    def resolved(self) -> Any:
        """Return the section with every default, as plain YAML values."""
        plain = without_enumerations(self.parsed.clone())
        return yaml.safe_load(self.parser.dump(plain, skip_unset=False))[self.name]


def without_enumerations(node: Any) -> Any:
    """Replace members of enumerations, defaults of some callbacks, by their values in place."""
    if isinstance(node, enum.Enum):
        return node.value
    if isinstance(node, list):
        return [without_enumerations(value) for value in node]
    if isinstance(node, dict | Namespace):
        for name, value in vars(node).items() if isinstance(node, Namespace) else node.items():
            node[name] = without_enumerations(value)
    return node


def build_data(section: Section) -> LightningDataModule:
    """Build the data module and read it, before the run has a folder: a faulty set leaves none.

    Raises:
        UserError: the data are not there, or not as they should be.
        OSError: a hub cannot be reached.
    """
    data: LightningDataModule = section.build()
    try:
        data.prepare_data()
        data.setup("fit")
    except ValueError as error:
        problem, _, hint = str(error).partition("\n")
        raise UserError("data", one_line(problem), hint) from None
    return data


def build_learner(section: Section, seed: int) -> LightningModule:
    """Build the learner and its networks, once, from the recipe's seed.

    Raises:
        UserError: a constructor refused its arguments.
    """
    from lightning.pytorch import seed_everything

    seed_everything(seed, workers=True, verbose=False)
    learner: LightningModule = section.build()
    return learner
