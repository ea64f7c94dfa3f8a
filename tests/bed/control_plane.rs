//! A control plane for scripts: says on stdout where it is, and runs until stdin ends.

use std::io::{Read, Write};

use bed::cluster::ControlPlane;

fn main() -> std::io::Result<()> {
    let control = ControlPlane::start();
    println!("namespace={}", control.namespace().name());
    println!("address={}", ControlPlane::ADDRESS);
    println!("server={}", control.server());
    println!("kubeconfig={}", control.admin_kubeconfig().display());
    println!("kubectl={}", bed::cluster::binary("kubectl").display());
    // Ends the list: a reader knows that all is said.
    println!("ready=yes");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
