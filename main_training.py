"""Train and evaluate a policy on a D4RL task.

python main_training.py --policy DMPO --env walker2d-expert-v2 --scale 10.0
python main_training.py --policy DMPO_ant --env antmaze-large-play-v0 --scale 5.0 --info-reg
"""

from experiment.start_up import guard_imports

if __name__ == "__main__":
    guard_imports()

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from d4rl_tasks.command_line import printable, run_program
from d4rl_tasks.files import checksum
from experiment.diagnostics import Diagnostics
from experiment.errors import StoppedError, memory_errors
from experiment.evaluation import EVAL_EPISODES, LAST_EVAL_EPISODES, evaluate
from experiment.generators import seed_everything
from experiment.loggers import choose_logger, make_logger
from experiment.models import (
    check_finite,
    find_model,
    load_weights,
    make_buffer,
    make_spec,
    save_model,
)
from experiment.options import BACKENDS, Options, choose_device, parse, policy_class
from experiment.progress import Progress, print_configuration, print_end, print_finished
from experiment.results import Results
from experiment.settings import describe_run, make_settings, run_name
from experiment.signals import StopSignals
from experiment.state import RunState
from speed.checked import CheckedTraining
from speed.faster import faster_training

LOSS_CHECK_FREQ = 1_000  # train steps between looks at the losses


class Training:
    """One run: train, evaluate, write."""

    def __init__(self, options: Options, signals: StopSignals):
        self.options = run = options.run
        self.signals = signals
        self.backend = BACKENDS[run.backend]
        # Before the dataset: a wrong option must not wait for a download.
        device = choose_device(run.device_id)
        self.logger_name = choose_logger(run.logger)
        dataset = self.backend.load_dataset(run.env, run.source)
        self.task = self.backend.get_task(run.env)
        model = find_model(options, dataset)
        settings = make_settings(options, dataset, checksum(model).sha256 if model else None)
        name = run_name(settings, dataset, run.name)
        self.config = describe_run(name, settings, options, dataset, device)
        self.results = Results(run.results_dir, run.policy, name)

        seed_everything(run.seed)
        hyperparameters, is_antmaze = options.hyperparameters, self.task.robot == "antmaze"
        spec = make_spec(run.policy, hyperparameters, dataset, is_antmaze, run.max_timesteps)
        self.policy = policy_class(run.policy)(spec, hyperparameters, device)
        self.buffer, self.normalizer = make_buffer(dataset, self.policy, run.seed, run.normalize)
        if model:
            load_weights(model, self.policy, self.normalizer, settings["dataset_sha256"])
        self.state = RunState(settings, self.policy, self.buffer, self.results)
        self.diagnostics = Diagnostics(self.policy, self.buffer, run.batch_size)

    def train(self) -> None:
        """Train to the last step, from the checkpoint if there is one.

        Raises:
            StoppedError: a signal came; a checkpoint has been written.
        """
        with self.results.locked(), contextlib.ExitStack() as stack:
            if self._begin_or_resume():
                return
            run, start = self.options, self.policy.total_it
            self.progress = Progress(start, run.max_timesteps)
            stack.enter_context(contextlib.closing(self.progress))
            stack.enter_context(self._logging(start))
            stack.enter_context(self.signals.deferring())
            faster = self._faster_training()
            if self.state.evaluation_due:
                self._evaluate_and_save(is_saved=True)
            while (step := self.policy.total_it) < run.max_timesteps:
                if faster:
                    steps = faster(self._steps_until_due(step))
                else:
                    steps = [self.policy.train(self.buffer, run.batch_size)]
                for number, losses in enumerate(steps, step + 1):
                    self.state.losses.add(number, losses)
                    self.progress.step()
                self._log_and_evaluate(self.policy.total_it)
        print_end(self.results.rows[-1], self.results.csv_path)

    def _faster_training(self) -> CheckedTraining | None:
        run, note = self.options, self.progress.note
        parts = self.policy, self.buffer, run.batch_size, note
        return faster_training(*parts, captures=not run.no_cuda_graph, compiles=run.compile)

    def _steps_until_due(self, step: int) -> int:
        """Train steps until the next log, evaluation or checkpoint, or the last step."""
        run = self.options
        frequencies = LOSS_CHECK_FREQ, run.c_loss_freq, run.eval_freq, self._checkpoint_freq
        left = run.max_timesteps - step
        return min(left, *(frequency - step % frequency for frequency in frequencies))

    def _log_and_evaluate(self, step: int) -> None:
        losses, is_last = self.state.losses, step == self.options.max_timesteps
        is_window = is_last or step % self.options.c_loss_freq == 0
        if is_window or step % LOSS_CHECK_FREQ == 0:
            losses.read()
            self.progress.show_losses(losses.latest)
        if is_window and losses.has_window:
            self.results.losses.append(losses.take_window())
        self.state.evaluation_due = is_last or step % self.options.eval_freq == 0
        is_saved = is_last or step % self._checkpoint_freq == 0 or self.signals.is_set()
        if self.state.evaluation_due or is_saved:
            self._evaluate_and_save(is_saved)

    @property
    def _checkpoint_freq(self) -> int:
        return self.options.checkpoint_freq or self.options.eval_freq

    def _evaluate_and_save(self, is_saved: bool) -> None:
        """Evaluate if that is due, then write a checkpoint, and stop if a signal asks for it."""
        self.state.losses.read()
        check_finite(self.policy)
        if self.state.evaluation_due:
            self._evaluate()
        if is_saved or self.signals.is_set():
            self.results.checkpoints.write(self.state.state_dict())
        if self.signals.received is not None and not self._is_finished:
            raise StoppedError(
                self.signals.received,
                f"stopped at step {self.policy.total_it} with a checkpoint: the same command "
                "resumes there",
            )

    def _evaluate(self) -> None:
        """Evaluate and write the results; if a signal comes, the evaluation stays due."""
        run, step = self.options, self.policy.total_it
        if run.save_model:
            self._save_model(self.results.model_path)
        usual = LAST_EVAL_EPISODES.get(self.task.robot) if step >= run.max_timesteps else None
        episodes = run.eval_episodes or usual or EVAL_EPISODES
        outcome = evaluate(
            self.policy,
            self.normalizer,
            self.task.name,
            episodes,
            run.seed,
            is_stopped=self.signals.is_set,
            show=lambda finished: self.progress.show_evaluation(finished, episodes),
            backend=self.backend,
        )
        if outcome is None:
            return
        others = self.state.losses.take_means() | self.diagnostics.measure()
        row = self.results.add_evaluation(step, self.state.seconds, outcome, others)
        if run.save_best and self.results.is_best:
            self._save_model(self.results.best_model_path)
        self.logger.evaluated(row)
        self.state.evaluation_due = False
        self.progress.evaluated(row)
        if warning := self.diagnostics.warning(row):
            self.progress.note(warning)

    def _save_model(self, path: Path) -> None:
        save_model(path, self.policy, self.normalizer, self.config)

    def _begin_or_resume(self) -> bool:
        """Start from step 0 or from the checkpoint; returns whether nothing is left to train."""
        found = None if self.options.fresh else self.results.checkpoints.read()
        if found is None:
            self.results.set_aside()
            self.results.write_config(self.config)
            print_configuration(self.config)
            return False
        self.state.load_state_dict(*found)
        if self.policy.total_it >= self.options.max_timesteps:  # which may be fewer than before
            self.state.evaluation_due = self.results.last_step < self.policy.total_it
        if self._is_finished:
            self.results.restore(self.config)
            if self.options.save_model and not self.results.model_path.exists():
                self._save_model(self.results.model_path)
            print_finished(self.policy.depends_on_train_steps)
            print_end(self.results.rows[-1], self.results.csv_path)
            return True
        self.results.update_config(self.config, self.policy.total_it)
        print_configuration(self.config)
        print(f"resumed at step {self.policy.total_it} from {found[0]}")
        return False

    @property
    def _is_finished(self) -> bool:
        """Whether the last step has been trained and evaluated."""
        is_last = self.policy.total_it >= self.options.max_timesteps
        return is_last and not self.state.evaluation_due

    @contextlib.contextmanager
    def _logging(self, start: int) -> Iterator[None]:
        run, folder, run_id = self.options, self.results.tensorboard_folder, self.state.run_id
        self.logger = make_logger(self.logger_name, folder, run_id, self.config, start, run)
        with contextlib.closing(self.logger):
            yield
            self.logger.finish(self.results.rows[-1], self._figures())

    def _figures(self) -> dict:
        """The report's figures of this run; none without a logger or the packages to draw them."""
        if self.logger_name == "none":
            return {}
        try:
            from reports.whole import figures_of_run

            model = self.results.model_path if self.options.save_model else None
            return figures_of_run(self.results.config_path, model)
        except ModuleNotFoundError:
            return {}
        except Exception as error:  # the run is done: a figure must not fail it
            print(f"warning: no figures are logged: {printable(error)}", file=sys.stderr)
            return {}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""

    @memory_errors()
    def run() -> None:
        options = parse(argv)
        for name in options.ignored:
            print(f"warning: {options.run.policy} has no --{name}: it is ignored", file=sys.stderr)
        Training(options, signals).train()

    with StopSignals() as signals:
        return run_program(run)


if __name__ == "__main__":
    sys.exit(main())
