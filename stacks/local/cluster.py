"""The orchestrator's own process: brings a local cluster up, watches it, takes it down.

`python -m stacks.local.cluster OPTIONS_JSON` is started by `mrgc local up`, which follows the events file that it
writes. It owns every other process. It ends at SIGTERM, or when the cluster does not come up.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from dataplane.protocol.errors import MrgcError
from stacks.local.description import describe_cluster
from stacks.local.engine.choice import ENGINE_ROOT
from stacks.local.engine.install import EngineEnvironment
from stacks.local.events import EventLog
from stacks.local.files import write_json
from stacks.local.hostrules import host_rules
from stacks.local.layout import Layout, make_layout
from stacks.local.options import ClusterOptions
from stacks.local.plan import HostPlan, Plan, Secrets, accelerator_settings, make_plan, ports_needed
from stacks.local.ports import HeldPorts, holder, is_free
from stacks.local.procfs import start_ticks
from stacks.local.provision import Prepared, Provisioned, create, prepare
from stacks.local.readiness import (
    accelerator_healthy,
    complete_once,
    http_answers,
    parent_ready,
    router_ready,
    wait_for,
)
from stacks.local.supervisor import Child, Supervisor, SupervisorError, describe_exit, log_tail

ENGINE_PYTHON = EngineEnvironment(ENGINE_ROOT).python

ENGINES_STARTING = 2
"""Hosts whose engine starts at once: one takes about 15 CPU seconds, and a machine may have two cores."""

SYNTHETIC_STARTING = 4
"""Hosts with a synthetic engine take about 2 CPU seconds each."""

START_TIMEOUT_S = 180.0
"""Longest wait for one host's engine to be ready, on a busy machine."""

STEP_TIMEOUT_S = 60.0
"""Longest wait for anything else to answer."""

STOP_GRACE_S = 8.0
"""How long each group may drain: its own drain timeout is 3 s."""

T = TypeVar("T")


class ClusterError(MrgcError):
    """A cluster that did not come up; the text says what was in the way."""


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Hold the directory's lock, so that it has one supervisor; raises `ClusterError` when it has one already."""
    descriptor = os.open(layout.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(
                f"{layout.root} is in use by a running cluster; `mrgc local down --dir {layout.root}` stops it."
            ) from None
        yield
    finally:
        os.close(descriptor)


class Cluster:
    """One local cluster from its first process to its last."""

    def __init__(self, options: ClusterOptions, layout: Layout, events: EventLog) -> None:
        """Plan nothing yet: ports are taken when it starts."""
        self.id = uuid4().hex
        self._options = options
        self._layout = layout
        self._events = events
        self._supervisor = Supervisor(cluster=self.id, on_exit=self._exited)
        self._plan: Plan | None = None
        self._ports: HeldPorts | None = None
        self._crash: asyncio.Future[Child] | None = None
        self._ready = False
        self._error: str | None = None
        self._began = time.time()

    async def run(self, stop: asyncio.Event) -> None:
        """Come up, stay until `stop`, go down; raises `MrgcError` when coming up failed."""
        loop = asyncio.get_running_loop()
        self._crash = loop.create_future()
        try:
            await self._unless_stopped(stop, self._come_up())
            if not stop.is_set():
                self._ready = True
                self._save()
                self._events.emit("ready", endpoint=f"https://127.0.0.1:{self._options.port}")
                await stop.wait()
        except MrgcError as error:
            self._error = str(error)
            raise
        finally:
            self._ready = False
            await self._go_down()

    async def _unless_stopped(self, stop: asyncio.Event, work: Awaitable[None]) -> None:
        """Do the work until it is done, somebody asks to stop, or a process dies."""
        assert self._crash is not None  # noqa: S101 - set by run, the only caller
        task = asyncio.ensure_future(work)
        stopping = asyncio.create_task(stop.wait())
        try:
            waited: set[asyncio.Future[Any]] = {task, stopping, self._crash}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self._crash.done():
                raise self._died(self._crash.result())
            if task.done():
                await task
        finally:
            for each in (task, stopping):
                each.cancel()
            await asyncio.gather(task, stopping, return_exceptions=True)

    async def _come_up(self) -> None:
        options, layout = self._options, self._layout
        if not is_free(options.port):
            raise ClusterError(
                f"Port {options.port} of 127.0.0.1 is taken by {holder(options.port)}; stop it, or give `--port`."
            )
        if options.engine == "vllm" and not ENGINE_PYTHON.exists():
            raise ClusterError(
                f"The engine is not installed ({ENGINE_PYTHON} is missing); run `make engine`, or give "
                "`--engine synthetic` (ENGINE=synthetic), which answers with made-up words and says so."
            )
        with self._events.stage("keys", "authorities, certificates, API keys, measurements, model store"):
            prepared = await asyncio.to_thread(prepare, options, layout)
        plan = self._plan = self._lay_out(prepared)
        write_json(layout.accelerator_file, accelerator_settings(plan))
        await self._supervisor.open()
        with self._events.stage("aws", "embedded AWS: KMS, DynamoDB, instance metadata, trace collector"):
            await self._start(plan.aws)
            await wait_for(partial(http_answers, plan.aws_url), STEP_TIMEOUT_S, "the embedded AWS answers")
        hosts = list(plan.hosts)
        engines = asyncio.Semaphore(ENGINES_STARTING if options.engine == "vllm" else SYNTHETIC_STARTING)
        with self._events.stage("hosts", f"{options.engine} engines", total=len(hosts)) as progress:
            try:
                async with asyncio.TaskGroup() as group:
                    provisioning = group.create_task(asyncio.to_thread(create, plan, prepared))
                    group.create_task(self._start_front(plan, provisioning))
                    for host in hosts:
                        group.create_task(self._start_host(host, engines, provisioning, progress))
            except* MrgcError as errors:
                raise _first(errors) from None
            provisioned = provisioning.result()
        with self._events.stage(
            "routers", "routers ready, accelerator sees them healthy", total=len(plan.regions)
        ) as progress:
            await self._wait_front(plan, progress)
        draft = layout.cluster_file.with_name("cluster.draft.json")
        self._describe(draft, plan, prepared, provisioned)
        with self._events.stage("probe", "one sealed request a region", total=len(plan.regions)) as progress:
            for region in plan.regions:
                await complete_once(draft, f"https://127.0.0.1:{region.port}", region.name, STEP_TIMEOUT_S)
                progress()
        draft.replace(layout.cluster_file)

    def _lay_out(self, prepared: Prepared) -> Plan:
        # One more, in case the endpoint's is among them.
        ports = self._ports = HeldPorts(ports_needed(self._options) + 1)
        plan = make_plan(
            self._options,
            self._layout,
            ports=[port for port in ports.numbers if port != self._options.port],
            python=sys.executable,
            engine_python=str(ENGINE_PYTHON),
            pcrs=prepared.pcrs,
            router_keys=Secrets(
                access_key_id=prepared.router.access_key_id, secret_access_key=prepared.router.secret_access_key
            ),
        )
        write_json(self._layout.host_rules_file, host_rules(plan, os.environ))
        return plan

    async def _start(self, spec: Any) -> Child:
        child = await self._supervisor.start(spec)
        self._save()
        return child

    async def _start_host(
        self,
        host: HostPlan,
        engines: asyncio.Semaphore,
        provisioning: asyncio.Task[Provisioned],
        progress: Callable[[], None],
    ) -> None:
        """Start a host's four processes; take one of the engine's places until the host is ready."""
        async with engines:
            for role in ("proxy", "worker"):
                await self._start(host.processes[role])
            # The parent registers in the table that provisioning makes.
            await asyncio.shield(provisioning)
            for role in ("enclave", "parent"):
                await self._start(host.processes[role])
            await wait_for(partial(parent_ready, host.parent), START_TIMEOUT_S, f"host {host.short} is ready")
        progress()

    async def _start_front(self, plan: Plan, provisioning: asyncio.Task[Provisioned]) -> None:
        await asyncio.shield(provisioning)
        for spec in (plan.tap, plan.console, *(region.router for region in plan.regions)):
            if spec is not None:
                await self._start(spec)

    async def _wait_front(self, plan: Plan, progress: Callable[[], None]) -> None:
        # It serves the measurement log, which the probe's client asks before anything else.
        console = f"http://127.0.0.1:{plan.console_port}/status"
        await wait_for(partial(http_answers, console), STEP_TIMEOUT_S, "the console answers")
        for region in plan.regions:
            url = f"https://127.0.0.1:{region.port}"
            await wait_for(partial(router_ready, url), STEP_TIMEOUT_S, f"the router of {region.name} is ready")
            progress()
        # Its first check comes at once and the next seconds later: started earlier, it would see nobody ready.
        await self._start(plan.accelerator)
        admin = f"http://127.0.0.1:{plan.admin_port}"
        await wait_for(partial(accelerator_healthy, admin), STEP_TIMEOUT_S, "the accelerator sees every router healthy")

    def _describe(self, path: Path, plan: Plan, prepared: Prepared, provisioned: Provisioned) -> None:
        pids = {name: child.pid for name, child in self._supervisor.children.items()}
        write_json(path, describe_cluster(plan, prepared, provisioned, pids=pids))

    def _exited(self, child: Child) -> None:
        """Tell of a process that nobody asked to stop."""
        self._events.emit(
            "crash",
            name=child.spec.name,
            pid=child.pid,
            how=describe_exit(child.exit_code),
            log=str(child.spec.log),
            tail=log_tail(child.spec.log),
        )
        self._save()
        if self._crash is not None and not self._crash.done():
            self._crash.set_result(child)

    def _died(self, child: Child) -> SupervisorError:
        tail = "\n".join(f"    {line}" for line in log_tail(child.spec.log)) or "    (its log is empty)"
        return SupervisorError(
            f"{child.spec.name} ended with {describe_exit(child.exit_code)} while the cluster came up; "
            f"the end of {child.spec.log}:\n{tail}"
        )

    def _save(self) -> None:
        write_json(
            self._layout.state_file,
            {
                "cluster": self.id,
                "supervisor": {"pid": os.getpid(), "ticks": start_ticks(os.getpid())},
                "began": self._began,
                "ready": self._ready,
                "error": self._error,
                "endpoint": f"https://127.0.0.1:{self._options.port}",
                "options": self._options.model_dump(mode="json"),
                "run": str(self._layout.run),
                "processes": [child.describe() for child in self._supervisor.children.values()],
            },
        )

    async def _go_down(self) -> None:
        with self._events.stage("down", "stopping every process"):
            order = self._plan.stop_order() if self._plan else []
            left = await self._supervisor.close(order, grace_s=STOP_GRACE_S)
            self._save()
            for path in (self._layout.cluster_file, self._layout.cluster_file.with_name("cluster.draft.json")):
                path.unlink(missing_ok=True)
            shutil.rmtree(self._layout.run, ignore_errors=True)
            if self._ports is not None:
                self._ports.close()
        self._events.emit("stopped", swept=left, error=self._error)


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    """Return the first error of a group, however deep."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _main(options: ClusterOptions, layout: Layout, events: EventLog) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    await Cluster(options, layout, events).run(stop)


def main(arguments: list[str]) -> int:
    """Run one cluster; returns the exit code: 0 stopped as asked, 1 did not come up."""
    options = ClusterOptions.model_validate_json(arguments[0])
    layout = make_layout(options.directory)
    with EventLog(layout.events_file) as events:
        try:
            with locked(layout):
                shutil.rmtree(layout.logs, ignore_errors=True)
                asyncio.run(_main(options, layout, events))
        except MrgcError as error:
            events.emit("failed", error=str(error))
            return 1
        except OSError as error:
            events.emit("failed", error=f"The cluster's files in {layout.root} could not be made or read: {error}.")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
