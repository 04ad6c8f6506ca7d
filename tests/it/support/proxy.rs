//! A proxy between the server and Postgres. It parses enough of the protocol to know where a statement begins and where
//! its response ends, and injects faults there: it closes the connection, holds a statement back, or drops all packets.
//!
//! Message format: the Postgres manual, chapter 55. Except for the first message, each is a type byte, its length and
//! its content.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::{
    io::{self, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};

/// Where to close the connection, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Postgres never receives the statement.
    BeforeStatement,
    /// Postgres executes the statement, COMMIT included, and its response is lost.
    BeforeResponse,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    /// Identifies the statement: a part of its text.
    text: &'static str,
    cut: Cut,
}

#[derive(Clone)]
pub struct Proxy {
    port: u16,
    fault: Arc<Mutex<Option<Fault>>>,
    is_blackhole: Arc<watch::Sender<bool>>,
    /// Statements that contain this text do not reach Postgres yet.
    held_text: Arc<watch::Sender<Option<&'static str>>>,
    /// The number of statements that have been held back.
    held: Arc<AtomicUsize>,
    /// The socket of Postgres.
    target: Arc<Mutex<PathBuf>>,
    /// Round trips of each connection so far.
    round_trips: Arc<Mutex<Vec<u64>>>,
}

impl Proxy {
    /// Starts a proxy to this Postgres. It ends with the test's runtime.
    pub async fn start(database: &PgConnectOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fault = Arc::new(Mutex::new(None));
        let target = Arc::new(Mutex::new(socket(database)));
        let proxy = Self {
            port,
            fault,
            is_blackhole: Arc::default(),
            held_text: Arc::default(),
            held: Arc::default(),
            target,
            round_trips: Arc::default(),
        };
        let accepting = proxy.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let target = accepting.target.lock().unwrap().clone();
                // Without a Postgres, the connection is closed at once.
                let Ok(mut postgres) = UnixStream::connect(target).await else { continue };
                let proxy = accepting.clone();
                tokio::spawn(async move {
                    let mut is_blackhole = proxy.is_blackhole.subscribe();
                    tokio::select! {
                        biased;
                        _ = is_blackhole.wait_for(|&is| is) => {}
                        // The end of a connection is what the proxy is for.
                        _ended = proxy.forward(&mut client, &mut postgres) => return,
                    }
                    // A dead connection is never closed: nothing comes from it any more.
                    std::future::pending::<()>().await;
                    drop((client, postgres));
                });
            }
        });
        proxy
    }

    /// The same login through the proxy.
    pub fn options(&self, database: &PgConnectOptions) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .ssl_mode(PgSslMode::Disable)
            .username(database.get_username())
            .database(database.get_database().unwrap())
    }

    /// Connects new connections to another Postgres, as a changed DNS entry does.
    pub fn redirect_to(&self, database: &PgConnectOptions) {
        *self.target.lock().unwrap() = socket(database);
    }

    /// Closes the connection at the next statement that contains this text.
    pub fn inject(&self, text: &'static str, cut: Cut) {
        *self.fault.lock().unwrap() = Some(Fault { text, cut });
    }

    /// Whether the injected fault has happened.
    pub fn was_triggered(&self) -> bool {
        self.fault.lock().unwrap().is_none()
    }

    /// Holds back the statements that contain this text, each on its own connection.
    pub fn hold(&self, text: &'static str) {
        self.held_text.send_replace(Some(text));
    }

    /// Lets the held statements go on to Postgres.
    pub fn release(&self) {
        self.held_text.send_replace(None);
    }

    /// The number of statements that have been held back.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// Drops all packets and closes nothing, on existing connections and on new ones.
    pub fn blackhole(&self) {
        self.is_blackhole.send_replace(true);
    }

    /// Forwards packets of new connections again. Existing connections stay dead.
    pub fn restore(&self) {
        self.is_blackhole.send_replace(false);
    }

    /// Round trips on the connection that has made most of them.
    pub fn round_trips(&self) -> u64 {
        self.round_trips.lock().unwrap().iter().max().copied().unwrap_or_default()
    }

    async fn forward(&self, client: &mut TcpStream, postgres: &mut UnixStream) -> io::Result<()> {
        let (from_client, to_client) = client.split();
        let (from_postgres, to_postgres) = postgres.split();
        let drop_response = AtomicBool::new(false);
        tokio::select! {
            ended = self.forward_requests(from_client, to_postgres, &drop_response) => ended,
            ended = forward_responses(from_postgres, to_client, &drop_response) => ended,
        }
    }

    async fn forward_requests(
        &self,
        mut client: impl AsyncRead + Unpin,
        mut postgres: impl AsyncWrite + Unpin,
        drop_response: &AtomicBool,
    ) -> io::Result<()> {
        let length = client.read_u32().await?;
        let startup = read_content(&mut client, length).await?;
        postgres.write_u32(length).await?;
        postgres.write_all(&startup).await?;
        let connection = {
            let mut round_trips = self.round_trips.lock().unwrap();
            round_trips.push(0);
            round_trips.len() - 1
        };
        let mut statements: HashMap<String, String> = HashMap::new();
        loop {
            let (kind, length) = (client.read_u8().await?, client.read_u32().await?);
            let content = read_content(&mut client, length).await?;
            let mut texts = content.split(|&byte| byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
            let mut next = || texts.next().unwrap_or_default();
            let statement = match kind {
                // Parse
                b'P' => {
                    statements.insert(next(), next());
                    None
                }
                // Bind
                b'B' => Some((next(), next()).1).and_then(|name| statements.get(&name).cloned()),
                // Query
                b'Q' => Some(next()),
                _ => None,
            };
            // After Query, and after the Sync that ends an extended query, the client waits for the response.
            if matches!(kind, b'Q' | b'S') {
                self.round_trips.lock().unwrap()[connection] += 1;
            }
            let cut = statement.as_ref().and_then(|statement| self.trigger(statement));
            if let Some(statement) = &statement {
                self.wait_if_held(statement).await;
            }
            match cut {
                Some(Cut::BeforeStatement) => return Ok(()),
                Some(Cut::BeforeResponse) => drop_response.store(true, Ordering::SeqCst),
                None => {}
            }
            write_message(&mut postgres, kind, length, &content).await?;
        }
    }

    async fn wait_if_held(&self, statement: &str) {
        let mut held_text = self.held_text.subscribe();
        let is_held = |text: Option<&str>| text.is_some_and(|text| statement.contains(text));
        if is_held(*held_text.borrow()) {
            self.held.fetch_add(1, Ordering::SeqCst);
        }
        // The sender is never dropped.
        let _ = held_text.wait_for(|text| !is_held(*text)).await;
    }

    fn trigger(&self, statement: &str) -> Option<Cut> {
        let mut fault = self.fault.lock().unwrap();
        fault.take_if(|fault| statement.contains(fault.text)).map(|fault| fault.cut)
    }
}

fn socket(database: &PgConnectOptions) -> PathBuf {
    database.get_socket().unwrap().join(format!(".s.PGSQL.{}", database.get_port()))
}

async fn forward_responses(
    mut postgres: impl AsyncRead + Unpin,
    mut client: impl AsyncWrite + Unpin,
    drop_response: &AtomicBool,
) -> io::Result<()> {
    loop {
        let (kind, length) = (postgres.read_u8().await?, postgres.read_u32().await?);
        let content = read_content(&mut postgres, length).await?;
        if drop_response.load(Ordering::SeqCst) {
            // ReadyForQuery: the response is complete.
            if kind == b'Z' {
                return Ok(());
            }
            continue;
        }
        write_message(&mut client, kind, length, &content).await?;
    }
}

/// Writes the message at once, because some clients do not wait for the rest of a message.
async fn write_message(to: &mut (impl AsyncWrite + Unpin), kind: u8, length: u32, content: &[u8]) -> io::Result<()> {
    to.write_all(&[&[kind], &length.to_be_bytes()[..], content].concat()).await
}

/// Reads the content of a message. The four bytes of the length are counted in it.
async fn read_content(from: &mut (impl AsyncRead + Unpin), length: u32) -> io::Result<Vec<u8>> {
    let mut content = vec![0; usize::try_from(length).unwrap() - 4];
    from.read_exact(&mut content).await?;
    Ok(content)
}
