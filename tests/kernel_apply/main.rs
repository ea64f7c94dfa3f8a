//! The drivers of the apply stage against the real kernel: every test has a network namespace of its own.

mod bed;
mod blocks;
mod cleanup;
mod first_smartnat;
mod gapless;
mod names;
mod native;
#[path = "../kernel_netlink/netns.rs"]
mod netns;
mod nft;
mod order;
#[path = "../kernel_netlink/overrun.rs"]
mod overrun;
mod routes;
mod scale;
mod scope;
mod sets;
mod spelling;
mod sysctls;
mod tables;
mod trouble;
