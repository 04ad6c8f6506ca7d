//! `scripts/test-patroni`: three nodes of Postgres under Patroni, with the configuration of `deploy/patroni`, lose
//! their leader under load. Prints a table and writes it into `docs/scaling.md`.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, User, chown},
};
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tempfile::{TempDir, tempdir_in};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, transport::Endpoint};
use turnkey::grpc::pb::{ListEventsRequest, WatchEventsRequest};

use crate::support::{
    database::execute,
    doc_markers::write_between_marks,
    events::Watch,
    load::{Client, Failures, Load, Outcome},
    process::{Process, temp_folder, turnkey},
};

const NODES: usize = 3;
const CALLERS: usize = 8;
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// What has not happened by then never happens.
const TIMEOUT: Duration = Duration::from_mins(2);
const PASSWORD: &str = "secret";

struct Node {
    name: String,
    port: u16,
    rest_port: u16,
    configuration: PathBuf,
    data: PathBuf,
    patroni: Option<Process>,
}

/// Three nodes, etcd and `HAProxy`.
struct Patroni {
    nodes: Vec<Node>,
    proxy_port: u16,
    _etcd: Process,
    _haproxy: Process,
    folder: TempDir,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn template(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/patroni").join(name)).unwrap()
}

/// The words in capital letters, replaced. Longer ones come first, because some contain others.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    values.iter().fold(template.to_owned(), |text, (word, value)| text.replace(word, value))
}

impl Node {
    fn new(number: usize, folder: &Path, etcd_port: u16) -> Self {
        let name = format!("node-{number}");
        let home = folder.join(&name);
        fs::create_dir(&home).unwrap();
        let (port, rest_port, data) = (free_port(), free_port(), home.join("data"));
        let values = [
            ("DATA_DIRECTORY", data.display().to_string()),
            ("BIN_DIRECTORY", env::var("PG_BIN").expect("scripts/test-patroni sets PG_BIN")),
            ("SOCKET_DIRECTORY", home.display().to_string()),
            ("PGPASS_FILE", home.join("pgpass").display().to_string()),
            ("SUPERUSER_PASSWORD", PASSWORD.to_owned()),
            ("REPLICATION_PASSWORD", PASSWORD.to_owned()),
            ("NETWORK", "127.0.0.1/32".to_owned()),
            ("REST_PORT", rest_port.to_string()),
            ("PORT", port.to_string()),
            ("ADDRESS", "127.0.0.1".to_owned()),
            ("ETCD", format!("127.0.0.1:{etcd_port}")),
            ("name: NODE", format!("name: {name}")),
        ];
        let configuration = home.join("patroni.yaml");
        fs::write(&configuration, fill(&template("patroni.yaml"), &values)).unwrap();
        Self { name, port, rest_port, configuration, data, patroni: None }
    }

    fn start(&mut self) {
        let program =
            Path::new(&env::var("PATRONI_BIN").expect("scripts/test-patroni sets PATRONI_BIN")).join("patroni");
        self.patroni = Some(Process::start(as_postgres(&program).arg(&self.configuration)));
    }

    fn kill_postgres(&self) {
        let pid_file = fs::read_to_string(self.data.join("postmaster.pid")).unwrap();
        let pid = pid_file.lines().next().unwrap().trim().parse().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }

    /// Kills everything on the node, as the loss of its machine does.
    fn kill(&mut self) {
        self.patroni.take().expect("the node runs").signal(Signal::SIGKILL);
        self.kill_postgres();
    }

    /// The response of Patroni's REST API.
    fn rest(&self, arguments: &[&str]) -> Option<Value> {
        let (path, rest) = arguments.split_first().unwrap();
        let url = format!("http://127.0.0.1:{}{path}", self.rest_port);
        let output = Command::new("curl").args(["-s", "-m", "5", &url]).args(rest).output().unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }
}

impl Patroni {
    async fn start() -> Self {
        let folder = tempdir_in("/tmp").unwrap();
        let (etcd_port, peer_port, proxy_port) = (free_port(), free_port(), free_port());
        let mut nodes: Vec<Node> = (1..=NODES).map(|number| Node::new(number, folder.path(), etcd_port)).collect();
        let haproxy = template("haproxy.cfg");
        let (head, server) = haproxy.rsplit_once("    server NODE").unwrap();
        let servers = nodes.iter().fold(String::new(), |servers, node| {
            let values = [
                ("REST_PORT", node.rest_port.to_string()),
                ("ADDRESS", "127.0.0.1".to_owned()),
                ("PORT", node.port.to_string()),
            ];
            servers + "    server " + &node.name + &fill(server, &values)
        });
        let proxy = fill(head, &[("PROXY_ADDRESS", format!("127.0.0.1:{proxy_port}"))]);
        fs::write(folder.path().join("haproxy.cfg"), format!("{proxy}{servers}")).unwrap();
        give_to_postgres(folder.path());
        let (client, peer) = (format!("http://127.0.0.1:{etcd_port}"), format!("http://127.0.0.1:{peer_port}"));
        let etcd = Process::start(Command::new("etcd").args(["--data-dir"]).arg(folder.path().join("etcd")).args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &format!("default={peer}"),
        ]));
        nodes.iter_mut().for_each(Node::start);
        let haproxy = Process::start(Command::new("haproxy").arg("-f").arg(folder.path().join("haproxy.cfg")));
        let patroni = Self { nodes, proxy_port, _etcd: etcd, _haproxy: haproxy, folder };
        patroni.whole().await;
        patroni
    }

    /// Waits until there are a leader, a synchronous standby and another standby. Returns the number of the leader.
    async fn whole(&self) -> usize {
        let waited = timeout(TIMEOUT, async {
            loop {
                if let Some(leader) = self.leader_of_all() {
                    return leader;
                }
                sleep(POLL_INTERVAL).await;
            }
        });
        waited.await.unwrap_or_else(|_| {
            panic!("{:?}", self.nodes.iter().map(|node| node.rest(&["/cluster"])).collect::<Vec<_>>())
        })
    }

    fn leader_of_all(&self) -> Option<usize> {
        let mut roles = BTreeMap::new();
        let cluster = self.nodes.iter().find_map(|node| node.rest(&["/cluster"]))?;
        for member in cluster["members"].as_array()? {
            if ["running", "streaming"].contains(&member["state"].as_str()?) {
                roles.insert(member["role"].as_str()?.to_owned(), member["name"].as_str()?.to_owned());
            }
        }
        let leader = roles.get("leader").filter(|_| roles.len() == NODES && roles.contains_key("sync_standby"))?;
        self.nodes.iter().position(|node| node.name == *leader)
    }

    /// Through `HAProxy`.
    fn options(&self, role: &str, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.proxy_port)
            .ssl_mode(PgSslMode::Disable)
            .username(role)
            .password(PASSWORD)
            .database(database)
    }

    fn url(&self, route: Route, role: &str, database: &str) -> String {
        let ports = match route {
            Route::Proxy => vec![self.proxy_port],
            Route::Hosts => self.nodes.iter().map(|node| node.port).collect(),
        };
        let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("postgres://{role}:{PASSWORD}@{}/{database}?sslmode=disable", hosts.join(","))
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.patroni = None;
            // It may have ended already.
            let _ = as_postgres(&Path::new(&env::var("PG_BIN").unwrap()).join("pg_ctl"))
                .args(["-m", "immediate", "stop", "-D"])
                .arg(&node.data)
                .output();
        }
        // The user of Postgres owns it.
        let _ = fs::remove_dir_all(self.folder.path());
    }
}

fn postgres_user() -> Option<User> {
    Uid::effective().is_root().then(|| User::from_name("postgres").unwrap().expect("the user of Postgres exists"))
}

/// Postgres refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    let Some(user) = postgres_user() else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    let (uid, gid) = (format!("--reuid={}", user.uid), format!("--regid={}", user.gid));
    command.args([&uid, &gid, "--clear-groups", "--"]).arg(program).current_dir("/tmp");
    command
}

fn give_to_postgres(folder: &Path) {
    if let Some(user) = postgres_user() {
        for path in
            [vec![folder.to_path_buf()], fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()]
                .concat()
        {
            chown(&path, Some(user.uid), Some(user.gid)).unwrap();
        }
    }
}

/// A watcher that continues after its last event whenever the stream ends.
struct Watcher {
    ids: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Watcher {
    async fn start(client: Client) -> Self {
        let stream = async move |cursor: String| {
            let request = WatchEventsRequest { cursor, ..WatchEventsRequest::default() };
            Ok::<_, Status>(Watch::new(client.clone().watch_events(request).await?.into_inner()))
        };
        let mut cursor = stream(String::new()).await.unwrap().checkpoint().await;
        let ids = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&ids);
        let task = tokio::spawn(async move {
            loop {
                if let Ok(mut watch) = stream(cursor.clone()).await {
                    while let Ok(event) = watch.next_event().await {
                        cursor.clone_from(&event.id);
                        seen.lock().unwrap().push(event.id);
                    }
                }
                sleep(POLL_INTERVAL).await;
            }
        });
        Self { ids, _task: AbortOnDropHandle::new(task) }
    }

    /// Waits until it has seen as many events as there are, and returns whether it has seen these, in order.
    async fn has_seen_all(&self, mut client: Client) -> bool {
        let (mut request, mut all) = (ListEventsRequest { page_size: 500, ..Default::default() }, Vec::new());
        loop {
            let page = client.list_events(request.clone()).await.unwrap().into_inner();
            all.extend(page.events.into_iter().map(|event| event.id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        let caught_up = async {
            while self.ids.lock().unwrap().len() < all.len() {
                sleep(POLL_INTERVAL).await;
            }
        };
        timeout(TIMEOUT, caught_up).await.is_ok() && *self.ids.lock().unwrap() == all
    }
}

/// How the service finds the leader.
#[derive(Clone, Copy)]
enum Route {
    Proxy,
    /// `DATABASE_URL` names all nodes.
    Hosts,
}

impl Route {
    const ALL: [(Self, &str); 2] = [(Self::Proxy, "HAProxy"), (Self::Hosts, "three hosts in `DATABASE_URL`")];
}

/// What happens to the leader.
#[derive(Clone, Copy)]
enum Fault {
    PostgresKilled,
    NodeLost,
    Switchover,
}

impl Fault {
    const ALL: [(Self, &str); 3] = [
        (Self::PostgresKilled, "the leader's Postgres is killed (`kill -9`)"),
        (Self::NodeLost, "the leader's Postgres and Patroni are killed (`kill -9`), as if its machine were lost"),
        (Self::Switchover, "switchover"),
    ];

    /// Lets it happen, and waits until the cluster has three nodes again.
    async fn inject(self, patroni: &mut Patroni, load: &mut Load) {
        let leader = patroni.whole().await;
        match self {
            Self::PostgresKilled => patroni.nodes[leader].kill_postgres(),
            Self::NodeLost => patroni.nodes[leader].kill(),
            Self::Switchover => {
                let request = format!(r#"{{"leader": "{}"}}"#, patroni.nodes[leader].name);
                patroni.nodes[leader].rest(&["/switchover", "-X", "POST", "-d", &request]);
            }
        }
        load.wait_for_calls(3_000).await;
        if patroni.nodes[leader].patroni.is_none() {
            patroni.nodes[leader].start();
        }
        patroni.whole().await;
    }
}

/// Makes calls during the fault, in a database of its own.
async fn fail_over(patroni: &mut Patroni, route: Route, fault: Fault, database: &str) -> (Outcome, Failures, bool) {
    execute(&patroni.options("postgres", "postgres"), format!("CREATE DATABASE {database}")).await;
    let folder = temp_folder();
    let owner_url = patroni.url(route, "postgres", database);
    let migrated = turnkey(folder.path()).arg("migrate").env("DATABASE_URL", owner_url).output();
    assert!(migrated.as_ref().unwrap().status.success(), "{migrated:?}");
    let superuser = patroni.options("postgres", database);
    execute(&superuser, "GRANT turnkey_provisioner TO booking").await;
    let mut serve = turnkey(folder.path());
    serve.args(["serve", "--listen", "127.0.0.1:0"]).env("DATABASE_URL", patroni.url(route, "booking", database));
    let mut server = Process::start(&mut serve);
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
    let client = Client::new(endpoint.connect_lazy());
    let watcher = Watcher::start(client.clone()).await;
    let calling = client.clone();
    let mut load = Load::start(CALLERS, move || calling.clone());
    load.wait_for_calls(1_000).await;
    fault.inject(patroni, &mut load).await;
    load.wait_for_calls(1_000).await;
    let failures = load.failures();
    let outcome = load.stop(&superuser).await;
    let has_seen_all = watcher.has_seen_all(client).await;
    (outcome, failures, has_seen_all)
}

fn by_code(failures: &Failures) -> String {
    let mut codes = BTreeMap::new();
    for ((code, _message), count) in failures {
        *codes.entry(code).or_default() += count;
    }
    codes.iter().map(|(code, count): (_, &u64)| format!("{count} {code}")).collect::<Vec<_>>().join(", ")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Patroni, etcd and HAProxy, and takes several minutes: scripts/test-patroni"]
async fn patroni_loses_no_acknowledged_tenant_and_no_event_when_its_leader_fails_under_load() {
    let mut patroni = Patroni::start().await;
    let version =
        Command::new(Path::new(&env::var("PG_BIN").unwrap()).join("postgres")).arg("--version").output().unwrap();
    let role = format!("CREATE ROLE booking LOGIN PASSWORD '{PASSWORD}'");
    execute(&patroni.options("postgres", "postgres"), role).await;
    let mut table = format!(
        "{}\n| by | fault | longest wait of a call | failed attempts | answered | lost | half | events missed or repeated \
         |\n|---|---|---|---|---|---|---|---|\n",
        String::from_utf8_lossy(&version.stdout)
    );
    let mut is_sound = true;
    let cases = Route::ALL.iter().flat_map(|route| Fault::ALL.map(|fault| (*route, fault)));
    for (number, ((route, route_name), (fault, fault_name))) in cases.enumerate() {
        let database = format!("turnkey_{number}");
        let (outcome, failures, has_seen_all) = fail_over(&mut patroni, route, fault, &database).await;
        let (waited, failed) = (outcome.longest_wait.as_secs_f64(), by_code(&failures));
        let Outcome { answered, lost, half, .. } = outcome;
        let events = if has_seen_all { "none" } else { "some" };
        let row = format!(
            "| {route_name} | {fault_name} | {waited:.1} s | {failed} | {answered} | {lost} | {half} | {events} |"
        );
        println!("{row}");
        writeln!(table, "{row}").unwrap();
        is_sound &= outcome.is_sound() && has_seen_all;
    }
    assert!(is_sound, "{table}");
    write_between_marks("docs/scaling.md", &table);
}
