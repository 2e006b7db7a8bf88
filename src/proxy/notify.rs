//! What the service manager is told: ready, reloading, stopping (systemd's sd_notify, by its datagram
//! socket). Where there is no manager, nothing is done.
//!
//! Source: <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::time::{ClockId, clock_gettime};

/// A service manager, if there is one.
#[derive(Debug)]
pub struct Notify(Option<(UnixDatagram, SocketAddr)>);

impl Notify {
    /// The one that the environment names (`NOTIFY_SOCKET`).
    #[must_use]
    pub fn from_environment() -> Self {
        std::env::var_os("NOTIFY_SOCKET").map_or(Self(None), |name| Self::at(&name))
    }

    /// The one that listens there: a path, or an abstract name behind `@`. One that cannot be reached
    /// costs a warning and no more.
    #[must_use]
    pub fn at(name: &OsStr) -> Self {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            _ => SocketAddr::from_pathname(name),
        };
        let socket = UnixDatagram::unbound();
        match address.and_then(|address| Ok((socket?, address))) {
            Ok(manager) => Self(Some(manager)),
            Err(error) => {
                tracing::warn!(%error, "the service manager cannot be told anything");
                Self(None)
            }
        }
    }

    /// Clients may connect.
    pub fn ready(&self) {
        self.tell("READY=1\nSTATUS=Serving clients");
    }

    /// The file is being read again; [`ready`](Self::ready) tells when that is over.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// It is coming to its end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=Letting transactions end");
    }

    fn tell(&self, state: &str) {
        let Some((socket, address)) = &self.0 else { return };
        let sent: io::Result<usize> = socket.send_to_addr(state.as_bytes(), address);
        if let Err(error) = sent {
            tracing::warn!(%error, "the service manager was not told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_what_systemd_expects() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::at(path.as_os_str());
        let hear = || {
            let mut heard = [0; 200];
            let length = manager.recv(&mut heard).unwrap();
            String::from_utf8(heard[..length].to_vec()).unwrap()
        };
        notify.ready();
        assert!(hear().starts_with("READY=1\n"));
        notify.reloading();
        let heard = hear();
        let time = heard.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("a time");
        assert!(time.parse::<u64>().unwrap() > 0);
        notify.stopping();
        assert!(hear().starts_with("STOPPING=1\n"));
        // Nobody listens, or nobody is named: nothing happens.
        Notify::at(directory.path().join("nobody").as_os_str()).ready();
        Notify(None).ready();
    }

    #[test]
    fn a_name_may_be_abstract() {
        let name = format!("causeway-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        Notify::at(OsStr::new(&format!("@{name}"))).ready();
        assert!(manager.recv(&mut [0; 200]).unwrap() > 7);
    }
}
