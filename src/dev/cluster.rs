//! A whole cluster in one folder: backup, nodes, fronts.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Process, StartError};

/// How long a daemon may take to bind its port and to serve: a long log is replayed in it.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a daemon may take to drain.
const DRAIN: Duration = Duration::from_secs(30);

/// What cluster to run.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// This program.
    pub binary: PathBuf,
    /// Where everything lies.
    pub folder: PathBuf,
    /// How many nodes. Numbers 1 to this.
    pub node_count: u32,
    /// How many fronts.
    pub front_count: u32,
    /// Where the first front listens.
    pub listen: SocketAddr,
    /// Bytes of a segment, for a new cluster.
    pub segment_size: u64,
}

/// A running cluster. Everything is killed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    fronts: Vec<Process>,
    nodes: Vec<Process>,
    backup: Process,
}

impl Cluster {
    /// Starts all daemons and waits until they serve. A folder that holds a cluster already is
    /// taken up again.
    pub fn start(options: ClusterOptions) -> Result<Self, StartError> {
        let made = std::fs::create_dir_all(options.folder.join("logs"));
        made.map_err(|error| StartError::Spawn {
            name: "cluster".to_owned(),
            error,
        })?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut backup = start_backup(&options, any)?;
        backup.wait_ready(PATIENCE)?;
        let address = backup.address();
        let mut nodes = Vec::new();
        for number in 1..=options.node_count {
            nodes.push(start_node(&options, number, address, any, &[])?);
        }
        for node in &mut nodes {
            node.wait_ready(PATIENCE)?;
        }
        let mut fronts = Vec::new();
        for number in 1..=options.front_count {
            let listen = if number == 1 { options.listen } else { any };
            fronts.push(start_front(&options, number, address, listen)?);
        }
        for front in &mut fronts {
            front.wait_ready(PATIENCE)?;
        }
        Ok(Self {
            options,
            fronts,
            nodes,
            backup,
        })
    }

    /// Where clients connect.
    pub fn front_addresses(&self) -> Vec<SocketAddr> {
        self.fronts.iter().map(Process::address).collect()
    }

    /// The backup.
    pub const fn backup(&mut self) -> &mut Process {
        &mut self.backup
    }

    /// A front, by its number from 1.
    pub fn front(&mut self, number: u32) -> &mut Process {
        &mut self.fronts[index(number)]
    }

    /// A node, by its number.
    pub fn node(&mut self, number: u32) -> &mut Process {
        &mut self.nodes[index(number)]
    }

    /// How many nodes.
    pub const fn node_count(&self) -> u32 {
        self.options.node_count
    }

    /// The data folder of a node.
    pub fn node_folder(&self, number: u32) -> PathBuf {
        node_folder(&self.options.folder, number)
    }

    /// The data folder of the backup.
    pub fn backup_folder(&self) -> PathBuf {
        self.options.folder.join("backup")
    }

    /// Starts one more node, which joins the cluster. Its number; does not wait until it serves.
    pub fn add_node(&mut self) -> Result<u32, StartError> {
        let number = self.options.node_count + 1;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let backup = self.backup.address();
        let node = start_node(&self.options, number, backup, any, &["--join"])?;
        self.nodes.push(node);
        self.options.node_count = number;
        Ok(number)
    }

    /// Deletes the data folder of a node that does not run.
    pub fn wipe_node(&self, number: u32) -> io::Result<()> {
        std::fs::remove_dir_all(self.node_folder(number))
    }

    /// Starts a node again, at the address that it had. Does not wait until it serves.
    pub fn restart_node(&mut self, number: u32) -> Result<(), StartError> {
        let (backup, listen) = (self.backup.address(), self.nodes[index(number)].address());
        self.nodes[index(number)] = start_node(&self.options, number, backup, listen, &[])?;
        Ok(())
    }

    /// The same for a node that is no member any more: it joins anew.
    pub fn rejoin_node(&mut self, number: u32) -> Result<(), StartError> {
        let (backup, listen) = (self.backup.address(), self.nodes[index(number)].address());
        let node = start_node(&self.options, number, backup, listen, &["--join"])?;
        self.nodes[index(number)] = node;
        Ok(())
    }

    /// Starts the backup again, at the address that it had. Does not wait until it serves.
    pub fn restart_backup(&mut self) -> Result<(), StartError> {
        let listen = self.backup.address();
        self.backup = start_backup(&self.options, listen)?;
        Ok(())
    }

    /// Makes the backup again from the nodes, at the address that it had: its folder is gone. Does
    /// not wait until it serves.
    pub fn recover_backup(&mut self, more: &[&str]) -> Result<(), StartError> {
        let mut arguments = vec![
            "backup".to_owned(),
            "recover".to_owned(),
            "--data-dir".to_owned(),
            text(&self.backup_folder()),
            "--listen".to_owned(),
            self.backup.address().to_string(),
        ];
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        self.backup = start(&self.options, "backup", &arguments)?;
        Ok(())
    }

    /// Starts a front again, at the address that it had. Does not wait until it serves.
    pub fn restart_front(&mut self, number: u32) -> Result<(), StartError> {
        let (backup, listen) = (self.backup.address(), self.fronts[index(number)].address());
        self.fronts[index(number)] = start_front(&self.options, number, backup, listen)?;
        Ok(())
    }

    /// The name and exit code of a daemon that ended, if one did.
    pub fn ended(&mut self) -> io::Result<Option<(String, i32)>> {
        for process in self.everyone() {
            if let Some(code) = process.ended()? {
                return Ok(Some((process.name().to_owned(), code)));
            }
        }
        Ok(None)
    }

    fn everyone(&mut self) -> impl Iterator<Item = &mut Process> {
        let ledger = self
            .nodes
            .iter_mut()
            .chain(std::iter::once(&mut self.backup));
        self.fronts.iter_mut().chain(ledger)
    }

    /// Drains and ends everything that still runs: fronts first, then nodes, then the backup.
    pub fn stop(mut self) -> io::Result<()> {
        for group in [&mut self.fronts, &mut self.nodes] {
            for process in group.iter_mut() {
                if process.ended()?.is_none() {
                    process.terminate()?;
                }
            }
            for process in group.iter_mut() {
                process.wait(DRAIN)?;
            }
        }
        self.backup.terminate()?;
        self.backup.wait(DRAIN)?;
        Ok(())
    }
}

fn index(number: u32) -> usize {
    let position = number.checked_sub(1).expect("daemons are numbered from 1");
    crate::model::to_usize(u64::from(position))
}

fn node_folder(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("node-{number}"))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn start_backup(options: &ClusterOptions, listen: SocketAddr) -> Result<Process, StartError> {
    let folder = options.folder.join("backup");
    let mut arguments = vec![
        "backup".to_owned(),
        "--data-dir".to_owned(),
        text(&folder),
        "--listen".to_owned(),
        listen.to_string(),
    ];
    // Without an authority's record there is no cluster yet, whatever else lies there.
    if !folder.join("authority").exists() {
        let numbers: Vec<String> = (1..=options.node_count).map(|n| n.to_string()).collect();
        arguments.push("--create".to_owned());
        arguments.extend(["--nodes".to_owned(), numbers.join(",")]);
        arguments.extend([
            "--segment-size".to_owned(),
            options.segment_size.to_string(),
        ]);
    }
    start(options, "backup", &arguments)
}

fn start_node(
    options: &ClusterOptions,
    number: u32,
    backup: SocketAddr,
    listen: SocketAddr,
    more: &[&str],
) -> Result<Process, StartError> {
    let mut arguments = vec![
        "node".to_owned(),
        "--id".to_owned(),
        number.to_string(),
        "--data-dir".to_owned(),
        text(&node_folder(&options.folder, number)),
        "--backup".to_owned(),
        backup.to_string(),
        "--listen".to_owned(),
        listen.to_string(),
    ];
    arguments.extend(more.iter().map(|word| (*word).to_owned()));
    start(options, &format!("node-{number}"), &arguments)
}

fn start_front(
    options: &ClusterOptions,
    number: u32,
    backup: SocketAddr,
    listen: SocketAddr,
) -> Result<Process, StartError> {
    let arguments = [
        "front".to_owned(),
        "--backup".to_owned(),
        backup.to_string(),
        "--listen".to_owned(),
        listen.to_string(),
    ];
    start(options, &format!("front-{number}"), &arguments)
}

fn start(
    options: &ClusterOptions,
    name: &str,
    arguments: &[String],
) -> Result<Process, StartError> {
    let log = options.folder.join("logs").join(format!("{name}.log"));
    Process::start(name, &options.binary, arguments, &log, PATIENCE)
}
