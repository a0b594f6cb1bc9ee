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
    pub(super) fn nodes(&self) -> Vec<usize> {
        self.node_at.clone()
    }

    /// Numbers of the machines with fronts.
    pub(super) const fn fronts(&self) -> std::ops::Range<usize> {
        let first = 1 + self.plan.node_count;
        first..first + self.plan.front_count
    }

    /// Numbers of all machines with daemons.
    pub(super) fn daemons(&self) -> Vec<usize> {
        let mut all = vec![self.backup()];
        all.extend(&self.node_at);
        all.extend(self.fronts());
        all
    }

    /// Number of the machine with the client that reads at the end.
    pub(super) const fn reader(&self) -> usize {
        self.fronts().end + self.plan.client_count
    }

    /// Number of the machine that may take a node's place.
    pub(super) const fn spare(&self) -> usize {
        self.reader() + 1
    }

    /// Number of the machine from which an operator sends commands, if there is one.
    pub(super) const fn operator_machine(&self) -> usize {
        self.spare() + 1
    }

    /// Number of the machine with a node that may join, if there is an operator.
    pub(super) const fn joiner(&self) -> usize {
        self.operator_machine() + 1
    }

    /// All machines, and everything switched on.
    pub(super) fn build(&mut self) {
        self.node_at = (1..=self.plan.node_count).collect();
        let joiner = self.joiner();
        let count = match &mut self.operator {
            Some(operator) => {
                operator.is_free(joiner);
                joiner + 1
            }
            None => self.spare() + 1,
        };
        for number in 0..count {
            let kind = self.kind_of(number);
            let name = match kind {
                Kind::Backup => "backup".to_owned(),
                Kind::Node(_) if number == self.spare() => "spare".to_owned(),
                Kind::Node(id) => format!("node {id}"),
                Kind::Front => format!("front {}", number - self.fronts().start + 1),
                Kind::Client(index) => format!("client {index}"),
            };
            let mut machine = Machine::new(name, kind, address_of(number));
            if matches!(kind, Kind::Backup | Kind::Node(_)) {
                machine.medium = Some(MemoryMedium::new());
            }
            machine.stays_down = number == self.spare() || number == self.joiner();
            self.machines.push(machine);
        }
        let cluster = self.cluster();
        self.watch.set_cluster(cluster, SEGMENT_SIZE_MIN);
        self.set_clocks();
        for number in 0..self.spare() {
            self.start(number);
        }
        if self.operator.is_some() {
            self.start(self.operator_machine());
        }
    }

    fn kind_of(&self, number: usize) -> Kind {
        if number == self.backup() {
            Kind::Backup
        } else if number <= self.plan.node_count {
            Kind::Node(node_id(number))
        } else if number == self.spare() {
            // It learns whose place it takes when it does.
            Kind::Node(node_id(1))
        } else if number == self.joiner() {
            Kind::Node(node_id(self.plan.node_count + 1))
        } else if number == self.operator_machine() {
            Kind::Client(self.plan.client_count + 1)
        } else if self.fronts().contains(&number) {
            Kind::Front
        } else {
            Kind::Client(number - self.fronts().end)
        }
    }

    /// The cluster's identity, by the seed.
    pub(super) fn cluster(&self) -> ClusterId {
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
        self.watch.forget_grants(number);
        if number == self.backup() {
            self.watch.backup_found_damage = false;
        }
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
            Kind::Backup => Box::new(self.make_backup()),
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

    fn make_backup(&mut self) -> Backup {
        let number = self.backup();
        let recover = self.recovery();
        let create = if self.faults.makes_new_cluster() {
            let other = self.id_random.u128() >> 1 | 1;
            Some(self.new_cluster(ClusterId::new(other).expect("neither 0 nor all ones")))
        } else if self.is_unmade() {
            Some(self.new_cluster(self.cluster()))
        } else {
            None
        };
        let limits = match self.plan.moves {
            Some(moves) => BackupLimits {
                take_over_after_ms: moves.take_over_after_ms,
                start_grace_ms: moves.start_grace_ms,
                refill_after_ms: moves.refill_after_ms,
                move_account_count_goal: moves.slot_count_goal,
                ..BackupLimits::STANDARD
            },
            // A dead node's users wait until it is back.
            None => BackupLimits {
                take_over_after_ms: 0,
                ..BackupLimits::STANDARD
            },
        };
        Backup::new(BackupOptions {
            create,
            recover,
            address: self.machines[number].address,
            incarnation: self.incarnation(),
            limits,
            id_seed: self.id_random.u64(),
        })
    }

    /// Was the cluster never made? A life may be cut short before it is; then the operator asks
    /// for it again.
    fn is_unmade(&self) -> bool {
        let medium = self.machines[self.backup()].medium.as_ref();
        let has_file =
            |medium: &MemoryMedium| medium.paths().iter().any(|path| path == "authority");
        let backup = self.backup();
        let is_other = self.faults.is_stranger(backup) || self.faults.is_hurt(backup);
        !medium.is_some_and(has_file) && !is_other
    }

    fn new_cluster(&self, cluster: ClusterId) -> NewCluster {
        let nodes = (1..=self.plan.node_count).map(|number| NewNode {
            node: node_id(number),
            weight: 1,
            keys: Vec::new(),
        });
        NewCluster {
            cluster,
            ring_key: self.ring_key(),
            nodes: nodes.collect(),
            segment_size: SEGMENT_SIZE_MIN,
        }
    }

    fn make_node(&mut self, number: usize, id: NodeId) -> Node {
        Node::new(NodeOptions {
            id,
            backup: address_of(0),
            address: self.machines[number].address,
            incarnation: self.incarnation(),
            cluster: None,
            join: self.operator.as_ref().and_then(|it| it.join_of(number)),
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
        // Neither the one that reads at the end nor the operator has a load.
        let is_reader = self.plan.client_count <= index;
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
        let is_gone = code == ExitCode::Usage || self.has_removed_log(number, text);
        let is_removed = is_gone && self.was_removed(number);
        let is_beaten = is_removed || self.keeps_its_place(number, code);
        let gives_up = matches!(code, ExitCode::Fenced | ExitCode::Damage);
        let is_replaced = is_beaten || (self.machines[number].stays_down && gives_up);
        if !is_replaced && !self.faults.explains_exit(number, code, self.is_healed) {
            self.blame(format!(
                "{name} exits with {} without a fault that explains it: {text}",
                code as u8
            ));
        }
        if code == ExitCode::Damage && !is_removed {
            self.repair_by_hand(number, text);
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
        self.schedule(at, Event::Restart { machine: number });
    }

    pub(super) fn restart(&mut self, number: usize) {
        if !self.machines[number].stays_down {
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
        self.note_fault(FaultKind::PowerCutInDisk);
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
