//! A cluster of real processes, each of which can be wrapped, stopped, killed and brought back,
//! with a proxy on every link where a test wants one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use counterfoil::client::{Client, Options};
use counterfoil::dev::{Process, StartError};
use counterfoil::limits;
use tempfile::TempDir;

use crate::checker::{self, Verdict};
use crate::host::{self, BINARY};
use crate::logs;
use crate::proxy::Proxy;
use crate::record::Record;
use crate::workload::{Load, Workload, ask_again};

/// How long a daemon may take to serve: the machine may be busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Small segments: a test should not write gigabytes of zeros.
pub(crate) const SEGMENT_SIZE: u64 = 2 << 20;

/// How often a daemon is started again when its port is taken for a moment, by an outgoing
/// connection of some other process.
const BIND_ATTEMPT_COUNT: u32 = 40;

/// One of the daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Backup,
    Node(u32),
    Front(u32),
}

impl Role {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Backup => "backup".to_owned(),
            Self::Node(number) => format!("node-{number}"),
            Self::Front(number) => format!("front-{number}"),
        }
    }
}

/// What cluster to start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) node_count: u32,
    pub(crate) front_count: u32,
    /// With a proxy on every link.
    pub(crate) has_proxies: bool,
}

#[derive(Debug)]
struct Daemon {
    role: Role,
    folder: PathBuf,
    process: Option<Process>,
    /// Where it listens since its first start.
    address: Option<SocketAddr>,
    /// A program and its arguments that run it.
    wrapper: Vec<String>,
    /// Arguments that only this one has.
    extra: Vec<String>,
    /// In front of it, for those who connect to it.
    proxy: Option<Proxy>,
    /// Between it and the backup.
    to_backup: Option<Proxy>,
}

/// A cluster, its load and its record.
#[derive(Debug)]
pub(crate) struct World {
    name: &'static str,
    folder: TempDir,
    shape: Shape,
    daemons: Vec<Daemon>,
    pub(crate) record: Arc<Record>,
}

impl World {
    /// Makes the folders; nothing runs yet.
    pub(crate) fn new(name: &'static str, shape: Shape) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        std::fs::create_dir(folder.path().join("logs")).expect("a folder can be made");
        let nodes = (1..=shape.node_count).map(Role::Node);
        let fronts = (1..=shape.front_count).map(Role::Front);
        let roles = std::iter::once(Role::Backup).chain(nodes).chain(fronts);
        let proxy = |wanted: bool| (wanted && shape.has_proxies).then(Proxy::start);
        let daemons = roles
            .map(|role| Daemon {
                role,
                folder: folder.path().join(role.name()),
                process: None,
                address: None,
                wrapper: Vec::new(),
                extra: Vec::new(),
                proxy: proxy(role != Role::Backup),
                to_backup: proxy(role != Role::Backup),
            })
            .collect();
        let record = Arc::new(Record::create(&folder.path().join("record")));
        Self {
            name,
            folder,
            shape,
            daemons,
            record,
        }
    }

    /// Makes a cluster and starts all of it.
    pub(crate) fn start(name: &'static str, shape: Shape) -> Self {
        let mut world = Self::new(name, shape);
        world.start_all();
        world
    }

    pub(crate) fn start_all(&mut self) {
        for role in self.roles() {
            self.launch(role);
            if role == Role::Backup {
                self.wait_ready(role);
            }
        }
        for role in self.roles() {
            if role != Role::Backup {
                self.wait_ready(role);
            }
        }
    }

    pub(crate) fn roles(&self) -> Vec<Role> {
        self.daemons.iter().map(|daemon| daemon.role).collect()
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn daemon(&self, role: Role) -> &Daemon {
        let found = self.daemons.iter().find(|daemon| daemon.role == role);
        found.expect("it is one of the cluster")
    }

    fn daemon_mut(&mut self, role: Role) -> &mut Daemon {
        let found = self.daemons.iter_mut().find(|daemon| daemon.role == role);
        found.expect("it is one of the cluster")
    }

    /// The data folder of a daemon.
    pub(crate) fn data(&self, role: Role) -> PathBuf {
        self.daemon(role).folder.clone()
    }

    /// Puts the data folder of a daemon elsewhere.
    pub(crate) fn place(&mut self, role: Role, folder: PathBuf) {
        self.daemon_mut(role).folder = folder;
    }

    /// From its next start on the daemon has these arguments besides.
    pub(crate) fn extend(&mut self, role: Role, arguments: &[&str]) {
        self.daemon_mut(role).extra = arguments.iter().map(|word| (*word).to_owned()).collect();
    }

    /// One more node, which is to join the cluster. It is not started.
    pub(crate) fn add_node(&mut self, number: u32) -> Role {
        let role = Role::Node(number);
        self.daemons.push(Daemon {
            role,
            folder: self.folder.path().join(role.name()),
            process: None,
            address: None,
            wrapper: Vec::new(),
            extra: vec!["--join".to_owned()],
            proxy: None,
            to_backup: None,
        });
        role
    }

    /// A node that was removed from the cluster is killed, and its folder goes.
    pub(crate) fn scrap(&mut self, role: Role) {
        self.kill(role);
        self.wipe(role);
        self.daemons.retain(|daemon| daemon.role != role);
    }

    /// From its next start on the daemon runs inside this program; empty: by itself.
    pub(crate) fn wrap(&mut self, role: Role, wrapper: &[&str]) {
        self.daemon_mut(role).wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
    }

    pub(crate) fn process(&mut self, role: Role) -> &mut Process {
        let process = self.daemon_mut(role).process.as_mut();
        process.expect("it was started")
    }

    /// Every link with its name.
    pub(crate) fn links(&self) -> Vec<(String, &Proxy)> {
        let mut links = Vec::new();
        for daemon in &self.daemons {
            let from = match daemon.role {
                Role::Front(_) => "client",
                Role::Node(_) | Role::Backup => "front",
            };
            let name = daemon.role.name();
            if let Some(proxy) = &daemon.proxy {
                links.push((format!("{from} to {name}"), proxy));
            }
            if let Some(proxy) = &daemon.to_backup {
                links.push((format!("{name} to backup"), proxy));
            }
        }
        links
    }

    /// Where a daemon listens.
    pub(crate) fn address(&self, role: Role) -> SocketAddr {
        self.daemon(role).address.expect("it was started")
    }

    /// Where clients connect.
    pub(crate) fn fronts(&self) -> Vec<SocketAddr> {
        let fronts = self
            .daemons
            .iter()
            .filter(|daemon| matches!(daemon.role, Role::Front(_)));
        fronts
            .map(|daemon| match &daemon.proxy {
                Some(proxy) => proxy.address(),
                None => daemon.address.expect("it was started"),
            })
            .collect()
    }

    fn arguments(&self, daemon: &Daemon) -> Vec<String> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listen = daemon.address.unwrap_or(any).to_string();
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|w| (*w).to_owned()));
        let folder = host::text(&daemon.folder);
        match daemon.role {
            Role::Backup => {
                add(&["backup", "--data-dir", &folder, "--listen", &listen]);
                if !daemon.folder.join("authority").exists() {
                    let numbers: Vec<String> =
                        (1..=self.shape.node_count).map(|n| n.to_string()).collect();
                    add(&["--create", "--nodes", &numbers.join(",")]);
                    add(&["--segment-size", &SEGMENT_SIZE.to_string()]);
                }
                arguments.extend_from_slice(&daemon.extra);
                return arguments;
            }
            Role::Node(number) => {
                let id = number.to_string();
                add(&[
                    "node",
                    "--id",
                    &id,
                    "--data-dir",
                    &folder,
                    "--listen",
                    &listen,
                ]);
                if let Some(proxy) = &daemon.proxy {
                    add(&["--advertise", &proxy.address().to_string()]);
                }
            }
            Role::Front(_) => add(&["front", "--listen", &listen]),
        }
        let backup = match &daemon.to_backup {
            Some(proxy) => proxy.address(),
            None => self.address(Role::Backup),
        };
        add(&["--backup", &backup.to_string()]);
        arguments.extend_from_slice(&daemon.extra);
        arguments
    }

    /// Starts a daemon, at the address that it had. Does not wait until it serves.
    pub(crate) fn launch(&mut self, role: Role) {
        if let Err(error) = self.try_launch(role) {
            panic!("{}: {error}\n{}", self.name, self.words(role));
        }
    }

    /// As [`World::launch`], where the daemon may end before it listens.
    pub(crate) fn try_launch(&mut self, role: Role) -> Result<(), StartError> {
        let arguments = self.arguments(self.daemon(role));
        let log = self.log_path(role);
        let mut attempt = 1;
        let process = loop {
            match start(self.daemon(role), &arguments, &log) {
                Ok(process) => break process,
                Err(StartError::Ended { words, .. })
                    if words.contains("cannot listen") && attempt < BIND_ATTEMPT_COUNT =>
                {
                    attempt += 1;
                    std::thread::park_timeout(Duration::from_millis(100));
                }
                Err(error) => return Err(error),
            }
        };
        let address = process.address();
        let daemon = self.daemon_mut(role);
        daemon.address = Some(address);
        daemon.process = Some(process);
        for daemon in &self.daemons {
            if let (Some(proxy), true) = (&daemon.proxy, daemon.role == role) {
                proxy.aim(address);
            }
            if let (Some(proxy), Role::Backup) = (&daemon.to_backup, role) {
                proxy.aim(address);
            }
        }
        Ok(())
    }

    /// Where the daemon's words go.
    pub(crate) fn log_path(&self, role: Role) -> PathBuf {
        let name = format!("{}.log", role.name());
        self.folder.path().join("logs").join(name)
    }

    /// Everything a daemon ever said.
    pub(crate) fn words(&self, role: Role) -> String {
        std::fs::read_to_string(self.log_path(role)).unwrap_or_default()
    }

    pub(crate) fn wait_ready(&mut self, role: Role) {
        let name = self.name;
        let ready = self.process(role).wait_ready(PATIENCE);
        if let Err(error) = ready {
            panic!("{name}: {error}\n{}", self.words(role));
        }
    }

    /// Waits until it serves. The error is the exit code of one that ended instead.
    pub(crate) fn try_wait_ready(&mut self, role: Role) -> Result<(), i32> {
        match self.process(role).wait_ready(PATIENCE) {
            Ok(()) => Ok(()),
            Err(StartError::Ended { .. }) => {
                let code = self.wait_end(role, PATIENCE);
                Err(code.expect("its output has ended, so it has"))
            }
            Err(error) => panic!("{}: {error}\n{}", self.name, self.words(role)),
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, role: Role) {
        self.record.note(&format!("kill {}", role.name()));
        if !self.daemon(role).wrapper.is_empty() {
            // The wrapper ends with the daemon; killed first, it would leave it to end in order.
            for child in host::children(self.process(role).id()) {
                host::kill(child);
            }
        }
        self.process(role).kill().expect("it can be killed");
    }

    /// Takes a process that a test has started in the place of one that has ended.
    pub(crate) fn adopt(&mut self, role: Role, process: Process, folder: PathBuf) {
        let address = process.address();
        let daemon = self.daemon_mut(role);
        daemon.address = Some(address);
        daemon.process = Some(process);
        daemon.folder = folder;
        // Whoever knows the old address finds the new process.
        if let Some(proxy) = &daemon.proxy {
            proxy.aim(address);
        }
    }

    /// Deletes the data folder of a daemon that does not run.
    pub(crate) fn wipe(&self, role: Role) {
        self.record.note(&format!("wipe {}", role.name()));
        std::fs::remove_dir_all(self.data(role)).expect("it can be deleted");
    }

    /// Starts it again and waits until it serves.
    pub(crate) fn revive(&mut self, role: Role) {
        self.record.note(&format!("start {}", role.name()));
        self.launch(role);
        self.wait_ready(role);
    }

    /// Waits for its end. The exit code, if it ended by itself in time.
    pub(crate) fn wait_end(&mut self, role: Role, patience: Duration) -> Option<i32> {
        let code = self
            .process(role)
            .wait(patience)
            .expect("it can be waited for");
        self.record
            .note(&format!("{} ended with {code:?}", role.name()));
        code
    }

    /// No daemon has ended by itself.
    pub(crate) fn assert_all_run(&mut self) {
        for role in self.roles() {
            let ended = self.process(role).ended().expect("it can be asked");
            let words = self.words(role);
            assert!(ended.is_none(), "{role:?} ended with {ended:?}:\n{words}");
        }
    }

    pub(crate) fn load(&self, seed: u64) -> Load {
        Load::standard(self.fronts(), seed)
    }

    pub(crate) fn work(&self, load: &Load) -> Workload {
        Workload::start(load, &self.record)
    }

    /// The end of every test: asks for everything, judges it, stops the cluster, compares every
    /// node's log with the mirror, looks for every acknowledged entry.
    pub(crate) fn finish(mut self, load: &Load) -> Verdict {
        self.assert_all_run();
        ask_again(load, &self.record);
        let mut verdict = checker::judge(&self.record.read());
        let audit = self.audit(load);
        checker::judge_audit(&audit, &mut verdict);
        self.stop();
        self.verify();
        let facts = logs::read(&self.data(Role::Backup));
        checker::judge_logs(&facts, &mut verdict);
        verdict.hand_over_counts = (facts.taken_over_count, facts.moved_count);
        self.report(&verdict);
        verdict
    }

    /// What the backup says of the cluster; nothing if it does not answer now.
    pub(crate) fn try_status(&self) -> Option<serde_json::Value> {
        let options = Options {
            deadline: Duration::from_secs(1),
            ..Options::default()
        };
        let text = Client::connect_to(&self.fronts(), &options)
            .ok()?
            .status()
            .ok()?;
        Some(serde_json::from_str(&text).expect("a status is JSON"))
    }

    fn audit(&self, load: &Load) -> Vec<counterfoil::client::AuditRow> {
        let deadline = Duration::from_millis(u64::from(limits::DEADLINE_MS_MAX));
        let options = Options {
            deadline,
            ..Options::default()
        };
        let mut client = Client::connect_to(&load.fronts, &options).expect("a front is there");
        for _ in 0..100 {
            match client.audit() {
                Ok(rows) => return rows,
                // The front may not have found the backup again yet: questions are not kept.
                Err(error) if error.may_retry() => {
                    std::thread::park_timeout(Duration::from_millis(100));
                }
                Err(error) => panic!("{}: {error}", self.name),
            }
        }
        panic!("{}: no audit", self.name);
    }

    /// Drains and ends everything: fronts first, then nodes, then the backup.
    pub(crate) fn stop(&mut self) {
        let mut roles = self.roles();
        roles.sort_unstable_by(|a, b| b.cmp(a));
        for role in roles {
            let process = self.process(role);
            process.terminate().expect("it can be stopped");
            let code = process.wait(PATIENCE).expect("it can be waited for");
            let words = self.words(role);
            assert_eq!(code, Some(0), "{role:?} did not end in order:\n{words}");
        }
    }

    /// `counterfoil verify` of all folders, the nodes' against the backup's.
    pub(crate) fn verify(&self) {
        let backup = host::text(&self.data(Role::Backup));
        let check = |arguments: &[&str]| {
            let output = host::run(arguments);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let complained = String::from_utf8_lossy(&output.stderr).into_owned();
            let code = output.status.code();
            assert_eq!(
                code,
                Some(0),
                "{}: {arguments:?}: {said}{complained}",
                self.name
            );
        };
        check(&["verify", &backup]);
        for role in self.roles() {
            if matches!(role, Role::Node(_)) {
                let node = host::text(&self.data(role));
                check(&["verify", &node, "--against", &backup]);
            }
        }
    }

    fn report(&self, verdict: &Verdict) {
        let kept = verdict.violations.iter().take(10);
        let shown: Vec<String> = kept.map(|violation| format!("{violation:?}")).collect();
        host::say(&format!(
            "{}: {} ids, {} acknowledged ({} were unknown), {} never applied; {} replays; lost {}, \
             doubled {}, violations {}",
            self.name,
            verdict.fates.len(),
            verdict.acknowledged(),
            verdict.count("told unknown"),
            verdict.count("never applied"),
            verdict.count("replayed"),
            verdict.lost(),
            verdict.doubled(),
            verdict.violations.len(),
        ));
        assert!(
            shown.is_empty(),
            "{}: {} violations:\n{}",
            self.name,
            verdict.violations.len(),
            shown.join("\n")
        );
    }
}

impl Drop for World {
    /// What a failed test leaves is worth a look: its record, the daemons' words, the folders.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            host::say(&format!(
                "{}: see {}",
                self.name,
                self.folder.path().display()
            ));
        }
    }
}

fn start(daemon: &Daemon, arguments: &[String], log: &Path) -> Result<Process, StartError> {
    let name = daemon.role.name();
    match daemon.wrapper.split_first() {
        None => Process::start(&name, BINARY.as_ref(), arguments, log, PATIENCE),
        Some((program, words)) => {
            let mut all = words.to_vec();
            all.push(BINARY.to_owned());
            all.extend_from_slice(arguments);
            Process::start(&name, program.as_ref(), &all, log, PATIENCE)
        }
    }
}
