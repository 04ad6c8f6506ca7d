//! Stands between the server and Postgres, understands enough of what they say to know where a statement begins and where
//! its answer ends, and cuts the line right there when it is told to. Or it swallows everything without a word.
//!
//! Postgres' manual, chapter 55: after the first one, each message is a letter, its length and its content.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::{
    io::{self, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};

/// Where to cut, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The statement does not arrive.
    BeforeStatement,
    /// The statement is done, COMMIT included, and nobody hears of it.
    BeforeAnswer,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    /// Stands in the statement that is meant.
    text: &'static str,
    cut: Cut,
}

#[derive(Clone)]
pub struct Proxy {
    port: u16,
    trap: Arc<Mutex<Option<Fault>>>,
    is_silent: Arc<watch::Sender<bool>>,
    /// The socket of the Postgres behind it.
    target: Arc<Mutex<PathBuf>>,
    /// How often the server waited for an answer, on each line so far.
    trips: Arc<Mutex<Vec<u64>>>,
}

impl Proxy {
    /// In front of the Postgres of these options. Ends with the test's runtime.
    pub async fn start(database: &PgConnectOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let trap = Arc::new(Mutex::new(None));
        let target = Arc::new(Mutex::new(socket(database)));
        let proxy = Self { port, trap, is_silent: Arc::default(), target, trips: Arc::default() };
        let pumping = proxy.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let target = pumping.target.lock().unwrap().clone();
                // Where nobody listens, the line is closed as soon as it is there.
                let Ok(mut postgres) = UnixStream::connect(target).await else { continue };
                let proxy = pumping.clone();
                tokio::spawn(async move {
                    let mut is_silent = proxy.is_silent.subscribe();
                    tokio::select! {
                        biased;
                        _ = is_silent.wait_for(|&is| is) => {}
                        // A line that is cut is what this is for.
                        _cut = proxy.pump(&mut client, &mut postgres) => return,
                    }
                    // Nobody closes it: there is nothing to hear from a line that is dead.
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

    /// From here on new lines lead to another Postgres, as when a name is moved.
    pub fn redirect_to(&self, database: &PgConnectOptions) {
        *self.target.lock().unwrap() = socket(database);
    }

    /// Cuts the line at the next statement that holds this text.
    pub fn inject(&self, text: &'static str, cut: Cut) {
        *self.trap.lock().unwrap() = Some(Fault { text, cut });
    }

    /// Whether a statement has gone into the trap.
    pub fn was_triggered(&self) -> bool {
        self.trap.lock().unwrap().is_none()
    }

    /// From here on nothing comes through and nothing is closed, on the lines there are and on new ones.
    pub fn blackhole(&self) {
        self.is_silent.send_replace(true);
    }

    /// New lines work again. The old ones stay dead.
    pub fn restore(&self) {
        self.is_silent.send_replace(false);
    }

    /// Round trips on the line that has seen most of them.
    pub fn round_trips(&self) -> u64 {
        self.trips.lock().unwrap().iter().max().copied().unwrap_or_default()
    }

    async fn pump(&self, client: &mut TcpStream, postgres: &mut UnixStream) -> io::Result<()> {
        let (from_client, to_client) = client.split();
        let (from_postgres, to_postgres) = postgres.split();
        let swallow = AtomicBool::new(false);
        tokio::select! {
            ended = self.ask(from_client, to_postgres, &swallow) => ended,
            ended = answer(from_postgres, to_client, &swallow) => ended,
        }
    }

    async fn ask(
        &self,
        mut client: impl AsyncRead + Unpin,
        mut postgres: impl AsyncWrite + Unpin,
        swallow: &AtomicBool,
    ) -> io::Result<()> {
        let length = client.read_u32().await?;
        let startup = content(&mut client, length).await?;
        postgres.write_u32(length).await?;
        postgres.write_all(&startup).await?;
        let line = {
            let mut trips = self.trips.lock().unwrap();
            trips.push(0);
            trips.len() - 1
        };
        let mut statements: HashMap<String, String> = HashMap::new();
        loop {
            let (letter, length) = (client.read_u8().await?, client.read_u32().await?);
            let message = content(&mut client, length).await?;
            let mut texts = message.split(|&byte| byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
            let mut next = || texts.next().unwrap_or_default();
            let begins = match letter {
                b'P' => {
                    statements.insert(next(), next());
                    None
                }
                b'B' => Some((next(), next()).1).and_then(|name| statements.get(&name).cloned()),
                b'Q' => Some(next()),
                _ => None,
            };
            // A query, or the Sync that ends a row of messages: from here on nothing is sent before the answer is there.
            if matches!(letter, b'Q' | b'S') {
                self.trips.lock().unwrap()[line] += 1;
            }
            match begins.and_then(|statement| self.trigger(&statement)) {
                Some(Cut::BeforeStatement) => return Ok(()),
                Some(Cut::BeforeAnswer) => swallow.store(true, Ordering::SeqCst),
                None => {}
            }
            send(&mut postgres, letter, length, &message).await?;
        }
    }

    fn trigger(&self, statement: &str) -> Option<Cut> {
        let mut trap = self.trap.lock().unwrap();
        trap.take_if(|trap| statement.contains(trap.text)).map(|trap| trap.cut)
    }
}

fn socket(database: &PgConnectOptions) -> PathBuf {
    database.get_socket().unwrap().join(format!(".s.PGSQL.{}", database.get_port()))
}

async fn answer(
    mut postgres: impl AsyncRead + Unpin,
    mut client: impl AsyncWrite + Unpin,
    swallow: &AtomicBool,
) -> io::Result<()> {
    loop {
        let (letter, length) = (postgres.read_u8().await?, postgres.read_u32().await?);
        let message = content(&mut postgres, length).await?;
        if swallow.load(Ordering::SeqCst) {
            // Ready for the next query: this one is over.
            if letter == b'Z' {
                return Ok(());
            }
            continue;
        }
        send(&mut client, letter, length, &message).await?;
    }
}

/// In one piece: some do not wait for the rest of a message.
async fn send(to: &mut (impl AsyncWrite + Unpin), letter: u8, length: u32, content: &[u8]) -> io::Result<()> {
    to.write_all(&[&[letter], &length.to_be_bytes()[..], content].concat()).await
}

/// The length counts itself.
async fn content(from: &mut (impl AsyncRead + Unpin), length: u32) -> io::Result<Vec<u8>> {
    let mut content = vec![0; usize::try_from(length).unwrap() - 4];
    from.read_exact(&mut content).await?;
    Ok(content)
}
