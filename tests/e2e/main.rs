//! Real packets through a real kernel: clients, pods and attackers around a border box on which `smartnat-manager` runs.
//!
//! Every test builds its own [`bed::Bed`]; they run side by side. They need root and the tools that `tests/run.sh` installs.

#![forbid(unsafe_code)]

mod above;
mod affinity;
mod attacks;
mod bed_itself;
mod border_ipv6;
mod border_scan;
mod children;
mod container;
mod first_defects;
mod first_smartnat;
mod flushed;
mod foreign;
mod forwarding;
mod gateways;
mod grace;
mod inside_clients;
mod interfaces;
mod leaks;
mod lifecycle;
mod names;
mod native_tables;
mod neighbours;
mod others;
mod others_drop;
mod pods;
mod policy_rules;
mod refresh;
mod repair;
mod same_subnet;
mod service;
mod settings;
mod sources;
mod stream;
mod support;
mod switches;
mod trouble;
mod unanswering;
mod upgrade;
mod vrrp;
