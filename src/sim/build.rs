//! Machines and processes: how a cluster is put together, started, killed and started again.

use std::net::SocketAddr;
use std::sync::Arc;

use super::clock::{At, MS};
use super::disk::after_power_cut;
use super::machine::{Body, Kind, Machine, Process};
use super::network::{EndId, Parcel};
use super::plan::{Arrangement, FaultKind};
use super::workload::ClientBody;
use super::world::{Event, World};
use crate::backup::{Backup, BackupLimits, BackupOptions, NewCluster, NewNode};
use crate::client::session::{Session, SessionOptions};
use crate::disk::{Disk, DiskOptions, FolderKind, open_on};
use crate::front::{Front, FrontLimits, FrontOptions, Roles};
use crate::limits::SEGMENT_SIZE_MIN;
use crate::log::MemoryMedium;
use crate::model::{ClusterId, Incarnation, NodeId, Random};
use crate::node::{Node, NodeLimits, NodeOptions};
use crate::role::{ExitCode, Role};

/// Bytes of free space below which a simulated node takes no changes: its disks are small.
const DISK_RESERVE_SIZE: u64 = 1 << 20;

impl World {
    /// Number of the machine with the backup.
    #[expect(clippy::unused_self, reason = "it reads as what it is")]
    pub(super) const fn backup(&self) -> usize {
        0
    }

    /// Numbers of the machines with nodes.
    pub(super) const fn nodes(&self) -> std::ops::Range<usize> {
        1..1 + self.plan.node_count
    }

    /// Numbers of the machines with fronts.
    pub(super) const fn fronts(&self) -> std::ops::Range<usize> {
        let first = 1 + self.plan.node_count;
        first..first + self.plan.front_count
    }

    /// Numbers of all machines with daemons.
    pub(super) const fn daemons(&self) -> std::ops::Range<usize> {
        0..self.fronts().end
    }

    /// Number of the machine with the client that reads at the end.
    pub(super) const fn reader(&self) -> usize {
        self.fronts().end + self.plan.client_count
    }

    /// All machines, and everything switched on.
    pub(super) fn build(&mut self) {
        let count = self.reader() + 1;
        for number in 0..count {
            let kind = self.kind_of(number);
            let name = match kind {
                Kind::Backup => "backup".to_owned(),
                Kind::Node(id) => format!("node {id}"),
                Kind::Front => format!("front {}", number - self.fronts().start + 1),
                Kind::Client(index) => format!("client {index}"),
            };
            let mut machine = Machine::new(name, kind, address_of(number));
            if matches!(kind, Kind::Backup | Kind::Node(_)) {
                machine.medium = Some(MemoryMedium::new());
            }
            self.machines.push(machine);
        }
        let cluster = self.cluster();
        self.watch.set_cluster(cluster, SEGMENT_SIZE_MIN);
        self.set_clocks();
        for number in 0..count {
            self.start(number);
        }
    }

    fn kind_of(&self, number: usize) -> Kind {
        if number == self.backup() {
            Kind::Backup
        } else if self.nodes().contains(&number) {
            Kind::Node(node_id(number))
        } else if self.fronts().contains(&number) {
            Kind::Front
        } else {
            Kind::Client(number - self.fronts().end)
        }
    }

    /// The cluster's identity, by the seed.
    fn cluster(&self) -> ClusterId {
        let mut random = Random::new(self.plan.seed ^ 0x636c_7573);
        ClusterId::new(random.u128() >> 1 | 1).expect("neither 0 nor all ones")
    }

    /// The cluster's hash key, by the seed.
    pub(super) fn ring_key(&self) -> u128 {
        Random::new(self.plan.seed ^ 0x7269_6e67).u128()
    }

    fn incarnation(&mut self) -> Incarnation {
        Incarnation::new(self.id_random.u128() >> 1 | 1).expect("neither 0 nor all ones")
    }

    /// Starts the process of a machine.
    pub(super) fn start(&mut self, number: usize) {
        if self.machines[number].body.is_some() {
            return;
        }
        let name = self.machines[number].name.clone();
        self.machines[number].is_on = true;
        self.machines[number].life += 1;
        self.machines[number].paused_until = None;
        self.machines[number].busy_until = self.at;
        self.machines[number].wake = None;
        let born_tick = self.machines[number].clock.tick(self.at);
        let body = match self.machines[number].kind {
            Kind::Client(index) => Ok(self.make_client(index, born_tick)),
            Kind::Backup | Kind::Node(_) | Kind::Front => self.make_daemon(number, born_tick),
        };
        match body {
            Ok(body) => {
                self.machines[number].body = Some(body);
                self.wake(number);
            }
            Err(text) => self.process_exits(number, ExitCode::Damage, &text),
        }
        self.counts.event("start");
        self.tell(&format!("{name} starts"));
    }

    fn make_daemon(&mut self, number: usize, born_tick: u64) -> Result<Body, String> {
        let disk = self.open_disk(number)?;
        let role: Box<dyn Role> = match self.machines[number].kind {
            Kind::Backup => Box::new(self.make_backup(disk.is_some())),
            Kind::Node(id) => Box::new(self.make_node(number, id)),
            Kind::Front | Kind::Client(_) => Box::new(self.make_front(number)),
        };
        let process = Process::new(role, born_tick, disk.map(Arc::new));
        Ok(Body::Role(Box::new(process)))
    }

    fn open_disk(&self, number: usize) -> Result<Option<Disk>, String> {
        let Some(medium) = &self.machines[number].medium else {
            return Ok(None);
        };
        let kind = match self.machines[number].kind {
            Kind::Backup => FolderKind::Backup,
            Kind::Node(_) | Kind::Front | Kind::Client(_) => FolderKind::Node,
        };
        let opened = open_on(Arc::new(medium.clone()), DiskOptions { kind });
        opened.map(Some).map_err(|error| error.to_string())
    }

    fn make_backup(&mut self, _has_disk: bool) -> Backup {
        let number = self.backup();
        let is_blank = self.machines[number].life == 1 || self.faults.makes_new_cluster();
        let nodes = self.nodes().map(|node| NewNode {
            node: node_id(node),
            weight: 1,
            keys: Vec::new(),
        });
        let cluster = if self.faults.makes_new_cluster() {
            ClusterId::new(self.id_random.u128() >> 1 | 1).expect("neither 0 nor all ones")
        } else {
            self.cluster()
        };
        let create = is_blank.then(|| NewCluster {
            cluster,
            ring_key: self.ring_key(),
            nodes: nodes.collect(),
            segment_size: SEGMENT_SIZE_MIN,
        });
        // A life that was cut short before the cluster was made makes it again.
        let create = create.or_else(|| self.create_again());
        Backup::new(BackupOptions {
            create,
            address: self.machines[number].address,
            incarnation: self.incarnation(),
            limits: BackupLimits::STANDARD,
            id_seed: self.id_random.u64(),
        })
    }

    /// The operator asks again for the cluster that was never made.
    fn create_again(&self) -> Option<NewCluster> {
        let medium = self.machines[self.backup()].medium.as_ref()?;
        let is_made = medium.paths().iter().any(|path| path.contains("authority"));
        if is_made || self.faults.is_stranger(self.backup()) {
            return None;
        }
        let nodes = self.nodes().map(|node| NewNode {
            node: node_id(node),
            weight: 1,
            keys: Vec::new(),
        });
        Some(NewCluster {
            cluster: self.cluster(),
            ring_key: self.ring_key(),
            nodes: nodes.collect(),
            segment_size: SEGMENT_SIZE_MIN,
        })
    }

    fn make_node(&mut self, number: usize, id: NodeId) -> Node {
        Node::new(NodeOptions {
            id,
            backup: address_of(0),
            address: self.machines[number].address,
            incarnation: self.incarnation(),
            cluster: None,
            id_count_max: self.plan.id_count_max,
            limits: NodeLimits {
                disk_reserve_size: DISK_RESERVE_SIZE,
                ..NodeLimits::default()
            },
        })
    }

    fn make_front(&mut self, number: usize) -> Front {
        let index = number - self.fronts().start;
        let (roles, routers) = match self.plan.arrangement {
            Arrangement::Single => (Roles::Both, Vec::new()),
            Arrangement::Mesh => {
                let others = self.fronts().filter(|other| *other != number);
                (Roles::Both, others.map(address_of).collect())
            }
            Arrangement::Tiers if index == 0 => {
                let routers = self.fronts().skip(1).map(address_of).collect();
                (Roles::Balancer, routers)
            }
            Arrangement::Tiers => (Roles::Router, Vec::new()),
        };
        Front::new(FrontOptions {
            roles,
            strategy: self.plan.strategy,
            backup: address_of(0),
            routers,
            seed: self.id_random.u64(),
            cluster: None,
            incarnation: self.incarnation(),
            limits: FrontLimits::default(),
        })
    }

    fn make_client(&mut self, index: usize, born_tick: u64) -> Body {
        let options = SessionOptions {
            address_count: self.client_fronts(),
            cluster: None,
            deadline_ms: self.plan.deadline_ms,
            frames_in_flight_max: 4,
            incarnation: self.incarnation(),
        };
        let session = Session::new(&options, Random::new(self.id_random.u64()));
        let body = ClientBody::new(session, index, born_tick);
        let is_reader = index == self.plan.client_count;
        Body::Client(Box::new(if is_reader { body.reader() } else { body }))
    }

    /// How many fronts clients are told of. Those behind a balancer are reached directly, too.
    const fn client_fronts(&self) -> usize {
        self.plan.front_count
    }

    /// The front with this index in a client's list.
    pub(super) fn client_address(&self, index: usize) -> SocketAddr {
        address_of(self.fronts().start + index)
    }

    // ---- ends of processes ----

    /// The process ends by itself.
    pub(super) fn process_exits(&mut self, number: usize, code: ExitCode, text: &str) {
        let name = self.machines[number].name.clone();
        self.tell(&format!("{name} exits with {}: {text}", code as u8));
        self.counts.event("exit");
        if let Some(Body::Role(mut process)) = self.machines[number].body.take() {
            Self::finish_lanes(&mut process);
            let ends: Vec<EndId> = process.peers.values().copied().collect();
            for end in ends {
                self.close_end(end, None);
            }
        }
        self.machines[number].life += 1;
        self.drop_strangers(number);
        if !self.faults.explains_exit(number, code, self.is_healed) {
            self.blame(format!(
                "{name} exits with {} without a fault that explains it: {text}",
                code as u8
            ));
        }
        if code == ExitCode::Damage {
            self.repair_by_hand(number);
        }
        let pause = 20 * MS + self.turn_random.below(500 * MS);
        self.restart_at(number, self.at + pause);
    }

    /// Ends of connections that the process never accepted die with it.
    fn drop_strangers(&mut self, number: usize) {
        let ends = self.ends_of(number);
        for end in ends {
            let is_over = self
                .network
                .end(end)
                .is_some_and(|end| end.phase == super::network::Phase::Flushing);
            if !is_over {
                self.send_reset(end);
            }
        }
    }

    /// All ends of connections of a machine.
    pub(super) fn ends_of(&self, number: usize) -> Vec<EndId> {
        let mut found = Vec::new();
        for (conn, ends) in &self.network.conns {
            for (side, end) in ends.ends.iter().enumerate() {
                if end.machine == number && end.phase != super::network::Phase::Gone {
                    found.push(EndId { conn: *conn, side });
                }
            }
        }
        found
    }

    pub(super) fn restart_at(&mut self, number: usize, at: At) {
        self.machines[number].restarts_due += 1;
        self.schedule(at, Event::Restart { machine: number });
    }

    pub(super) fn restart(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        machine.restarts_due = machine.restarts_due.saturating_sub(1);
        if !machine.stays_down {
            self.start(number);
        }
    }

    /// SIGKILL: the system closes what the process had open.
    pub(super) fn kill(&mut self, number: usize) {
        let Some(mut body) = self.machines[number].body.take() else {
            return;
        };
        if let Body::Role(process) = &mut body {
            self.end_lanes(process);
        }
        self.machines[number].life += 1;
        for end in self.ends_of(number) {
            if self.turn_random.one_in(2) {
                self.network.lose_flight(end);
                self.send_reset(end);
            } else if let Some(one) = self.network.end_mut(end) {
                one.wither();
                let at = self.network.dispatch(end, Parcel::Fin, self.at);
                self.schedule(at, Event::Arrive { from: end });
            }
        }
    }

    /// Power is cut: nobody is told, and unsynced sectors are lost by the dice.
    pub(super) fn cut_power(&mut self, number: usize) {
        if let Some(Body::Role(mut process)) = self.machines[number].body.take() {
            self.end_lanes(&mut process);
        }
        let image = self.machines[number].medium.clone();
        self.lose_power(number, image.as_ref());
    }

    /// Power is cut in the middle of a disk operation: `image` is the disk at that moment.
    pub(super) fn crash_in_disk(&mut self, number: usize, image: &MemoryMedium) {
        self.machines[number].body = None;
        self.counts.fault(FaultKind::PowerCutInDisk.name());
        let text = format!(
            "power of {} is cut in the middle of a disk operation",
            self.machines[number].name
        );
        self.tell(&text);
        self.lose_power(number, Some(image));
        let pause = 20 * MS + self.turn_random.below(1_500 * MS);
        self.restart_at(number, self.at + pause);
    }

    fn lose_power(&mut self, number: usize, image: Option<&MemoryMedium>) {
        let machine = &mut self.machines[number];
        machine.life += 1;
        machine.is_on = false;
        machine.body = None;
        machine.medium = image.map(|image| after_power_cut(image, &mut self.disk_random));
        for end in self.ends_of(number) {
            if let Some(end) = self.network.end_mut(end) {
                end.wither();
            }
        }
    }
}

fn address_of(number: usize) -> SocketAddr {
    let low = u8::try_from(number + 1).expect("few machines");
    SocketAddr::from(([10, 0, 0, low], 6468))
}

fn node_id(number: usize) -> NodeId {
    let number = u32::try_from(number).expect("few machines");
    NodeId::new(number).expect("nodes come behind the backup")
}
