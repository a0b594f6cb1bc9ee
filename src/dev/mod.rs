//! The embedded cluster and what is done with it: child processes of this very program on
//! loopback. It knows processes, not cores: the daemons here are those that ship.

mod account_model;
mod cluster;
mod drill;
mod drill_load;
mod drill_shared;
mod process;
mod scenario;
mod shape;

pub use cluster::{Cluster, ClusterOptions};
pub use drill::{Drill, DrillError, DrillEvent, DrillOptions, DrillReport, LatencyReport};
pub use process::{Process, StartError};
pub use scenario::Scenario;
