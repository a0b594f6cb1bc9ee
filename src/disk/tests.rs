//! The requests of a role against folders in memory and on a real disk.
