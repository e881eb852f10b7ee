//! Runs the binary: with a data directory of its own, a private overlay of its own, and a deadline for everything.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Nothing here takes longer; a debug build on a busy machine is slow.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A data directory that does not exist yet, in a folder that is gone afterwards.
pub struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A command on this data directory, with nothing of the caller's environment that could steer it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peerline"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PEERLINE_")) {
            command.env_remove(name);
        }
        command.args(args).arg("--data-dir").arg(self.data());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ended {
        Ended::of(self.command(args).output().expect("the binary runs"))
    }

    pub fn run_with_input(&self, args: &[&str], input: &str) -> Ended {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().expect("the binary runs");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
        Ended::of(child.wait_with_output().expect("it ends"))
    }

    /// Starts a node and waits until it is up. `role` is empty for a desktop.
    pub fn start(&self, role: &[&str], overlay: &str, more: &[&str]) -> Running {
        let mut args = role.to_vec();
        args.extend(NODE);
        args.extend(["--test-overlay", overlay]);
        args.extend(more);
        Running::start(self.command(&args))
    }
}

/// What every node of a test is started with.
pub const NODE: [&str; 6] =
    ["--no-passphrase", "--no-mdns", "--json", "--listen", "/ip4/127.0.0.1/tcp/0", "--sip=127.0.0.1:0"];

/// A command that ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub words: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).expect("UTF-8"),
            words: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Broken, with one line that holds all of `parts`.
    pub fn is_broken_saying(&self, parts: &[&str]) {
        assert_eq!(self.code, 2, "{self:?}");
        let lines: Vec<&str> = self.words.lines().filter(|line| line.starts_with("peerline: ")).collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        parts.iter().for_each(|part| assert!(lines[0].contains(part), "no `{part}` in {self:?}"));
    }
}

/// A node in another process; killed when dropped.
pub struct Running {
    child: Child,
    /// Its run.json.
    pub info: serde_json::Value,
    words: std::thread::JoinHandle<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the binary runs");
        let mut stderr = child.stderr.take().expect("a pipe");
        let words = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let (line_to, line) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|l| drop(line_to.send(l))));
        let info = line.recv_timeout(DEADLINE).ok().and_then(|line| serde_json::from_str(&line).ok());
        let Some(info) = info else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the node did not come up: {}", words.join().unwrap_or_default());
        };
        Self { child, info, words }
    }

    pub fn text(&self, key: &str) -> String {
        self.info[key].as_str().unwrap_or_else(|| panic!("{key} in {}", self.info)).to_owned()
    }

    pub fn bootstrap(&self) -> String {
        self.info["listen"][0].as_str().expect("an address").to_owned()
    }

    /// Asks it to end as the system does. Returns how long it took, its exit code and its words.
    pub fn terminate(mut self) -> (Duration, Option<i32>, String) {
        let start = Instant::now();
        // The shell's own: a small machine has no program of that name.
        let kill = ["-c", "kill \"$0\"", &self.child.id().to_string()];
        let sent = Command::new("sh").args(kill).status().expect("a shell runs");
        assert!(sent.success());
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                break status;
            }
            assert!(start.elapsed() < DEADLINE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        let took = start.elapsed();
        let words = std::mem::replace(&mut self.words, std::thread::spawn(String::new));
        (took, status.code(), words.join().unwrap_or_default())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again until `ready` says yes.
pub fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One HTTP exchange with the local API: status code and body.
pub fn http(address: &str, host: &str, path: &str, token: Option<&str>) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(address).expect("the API listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let token = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{token}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
