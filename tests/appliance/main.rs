//! The appliance in a virtual machine: installed by `deploy/install.sh` on a bare system, with a real kernel with IPVS, real systemd, real
//! kube-proxy and a real API server, between real packets.

mod above;
mod boot;
mod life;
mod machine;
mod probe;
mod rendered;
mod same_subnet;
mod support;
mod walk;
