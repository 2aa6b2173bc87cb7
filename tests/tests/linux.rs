//! Debian's arm64 programs on our kernel and on Linux (under `qemu-aarch64`): equal output, equal exit
//! status. Many cases share a boot.
//!
//! `qemu-aarch64` cannot execute another arm64 program (without binfmt_misc), so that scripts here
//! keep to what the shell does itself, and other programs are run one by one.

use std::io::Write;
use std::process::{Output, Stdio};

use tests::batch::{Case, compare, compare_on, ours};
use tests::{Board, Boot, cowscope, root};
use wire::event::Event;

/// Scripts for any POSIX shell, of its own commands alone.
const SCRIPTS: &[&str] = &[
    "echo hello",
    "echo one; echo two >&2; exit 3",
    "printf '%s-%5d|%-5s|%x\\n' a 42 b 255",
    "for i in 1 2 3; do echo $i; done",
    "i=0; while [ $i -lt 5 ]; do i=$((i + 1)); [ $i = 3 ] && continue; echo $i; done",
    "until [ \"$n\" = xxx ]; do n=x$n; done; echo $n",
    "case abc in a*) echo starts;; *) echo no;; esac",
    "case x in [a-m]) echo low;; [n-z]) echo high;; esac",
    "f() { echo \"$# $1 $2\"; return 7; }; f 'a b' c; echo $?",
    "set -- a 'b c' d; shift; echo \"$@\" $#; for x; do echo \"<$x>\"; done",
    "x=hello; echo ${x#he} ${x%lo} ${#x} ${y:-default} ${x:+set} ${x%%l*} ${x##*l}",
    "echo $((1 + 2 * 3)) $((7 / 2)) $((7 % 3)) $((1 << 10)) $((0x1f)) $((1 > 2 ? 3 : 4))",
    "x=5; echo $((x += 3)) $x",
    "echo $(echo inner $(echo deep))",
    "echo `echo back`",
    "x=$(exit 4); echo $?",
    "(exit 5); echo $?",
    "(x=1; echo in $x); echo out $x",
    "echo a | while read x; do echo got $x; done",
    "echo 'one two three' | { read a b; echo $b, $a; }",
    "printf 'a\\nb\\nc\\n' | while read l; do echo \"[$l]\"; done",
    "{ echo out; echo err >&2; } 2>&1 | while read l; do echo piped $l; done",
    "true | false; echo $?; false | true; echo $?",
    "! true; echo $?; ! false; echo $?",
    "true && echo and; false || echo or; false && echo no; true",
    "while read l; do echo \"> $l\"; done <<X\nfirst $((1+1))\nsecond\nX",
    "while read l; do echo \"> $l\"; done <<'X'\nfirst $((1+1))\nX",
    "cat() { while IFS= read -r l; do echo \"$l\"; done; }; cat <<-X\n\ttab\n\tX",
    "IFS=:; set -- a:b:c; x=a:b:c; for i in $x; do echo $i; done",
    "set -e; false; echo unreached",
    "set -u; echo $unset; echo unreached",
    "set -f; echo /*; set +f",
    "set -x; echo traced",
    "unset x; : ${x:=assigned}; echo $x",
    "echo ${missing:?gone}; echo unreached",
    "readonly r=1; r=2; echo unreached",
    "export A=1; echo $A; unset A; echo ${A-none}",
    "alias ll='echo aliased'; eval ll",
    "eval 'echo $((2*21))'",
    "type echo; command -v cd; type nothing_like_it",
    "nothing_like_it; echo $?",
    "/etc; echo $?",
    "/etc/passwd; echo $?",
    "[ -e /etc/passwd ] && [ -d /etc ] && [ -f /etc/passwd ] && echo there",
    "[ -x /etc ] && [ ! -x /etc/passwd ] && [ -s /etc/passwd ] && echo so",
    "[ -h /bin ] && echo link; [ -t 0 ] || echo no terminal; [ -p /etc ] || echo no pipe",
    "[ abc = abc ] && [ abc != abd ] && [ 10 -gt 9 ] && [ -z '' ] && [ -n x ] && echo equal",
    "test 1 -eq x; echo $?",
    "cd /etc && pwd; cd .. && pwd; cd /nowhere; echo $?",
    "cd /etc && cd /usr/bin && cd - && echo $OLDPWD",
    "while read u r; do case $u in root*) echo $u;; esac; done < /etc/passwd",
    "exec 3< /etc/group; read g <&3; echo $g; exec 3<&-; read g <&3; echo $?",
    "exec 4>&1; echo four >&4; exec 4>&-; echo closed >&4; echo $?",
    "exec 2>&1; echo err >&2",
    "echo x > /dev/null; echo y 2> /dev/null; echo $?",
    "read x < /dev/null; echo $? $x",
    "echo to nowhere < /no/such/file; echo $?",
    "umask; umask 077; umask",
    "f() { local x=inner; echo $x; }; x=outer; f; echo $x",
    "f() { [ $1 -le 1 ] && { echo 1; return; }; p=$(f $(($1 - 1))); echo $(($1 * p)); }; f 6",
    "i=0; while :; do i=$((i+1)); [ $i -eq 200 ] && break; done; echo $i",
    "i=0; while [ $i -lt 40 ]; do x=$(echo $i); i=$((x+1)); done; echo $i",
    "{ i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; } | { n=0; while read l; do n=$((n+1)); done; echo $n $l; }",
    "(echo a; echo b) | (read x; read y; echo $y $x)",
    "echo a | (read x; echo $x | (read y; echo $y$y | (read z; echo $z$z)))",
    "sh() { return 3; }; sh; echo $?",
    "echo ${PATH:-none}",
    "echo \"$0\" $#",
    "printf '\\101\\t\\x42\\n'; printf '%b' 'a\\nb\\n'; printf '%%\\n'; printf '%c%c\\n' xyz abc",
    "printf '%d\\n' notanumber; echo $?",
    "echo 'single \"quotes\"' \"double 'quotes' $((1))\" es\\ caped",
    "echo a\\\nb",
    "echo /etc/pass* /etc/[g]roup /nothing*",
    "echo /bin/.. ~ | { read a b; echo $a; }",
    "getopts ab: o -a -b x; echo $o; getopts ab: o -a -b x; echo $o $OPTARG",
    "times > /dev/null; echo $?",
    "ulimit -n > /dev/null; echo $?",
    "if false; then echo 1; elif true; then echo 2; else echo 3; fi",
    "exit 256",
    "exit 300",
    "false",
    "return 4",
    "exec false_program; echo unreached",
    "syntax (",
    "if",
    ";;",
];

/// Scripts that need signals.
const SIGNALS: &[&str] = &[
    "trap 'echo bye' EXIT; echo hi",
    "trap 'echo bye $?' EXIT; exit 9",
    "trap '' TERM; trap; echo done",
    "(echo background) & wait; echo waited $?",
    "(exit 6) & wait $!; echo $?",
    "for i in 1 2 3; do (exit $i) & p=\"$p $!\"; done; for q in $p; do wait $q; echo $?; done",
    "wait 99999; echo $?",
    "kill -0 $$ && echo alive",
    "kill -TERM $$; echo unreached",
    "kill -KILL $$; echo unreached",
    "trap 'echo caught' USR1; kill -USR1 $$; echo after",
    "trap 'echo caught; exit 2' TERM; kill -TERM $$; echo unreached",
    "(trap 'echo child' TERM; kill -TERM $$) ; echo $?",
];

/// Programs of busybox, which do not run others.
const APPLETS: &[&[&str]] = &[
    &["true"],
    &["false"],
    &["echo", "-n", "no newline"],
    &["echo", "-e", "a\\tb\\n"],
    &["printf", "%05d %s\\n", "42", "x"],
    &["expr", "6", "*", "7"],
    &["expr", "abc", ":", "a\\(.\\)"],
    &["expr", "1", "=", "2"],
    &["seq", "1", "3", "10"],
    &["basename", "/usr/lib/x.so", ".so"],
    &["dirname", "/usr/lib/x.so"],
    &["cat", "/etc/passwd", "/etc/group"],
    &["cat", "-n", "/etc/passwd"],
    &["cat", "/no/such/file"],
    &["cat", "/etc"],
    &["tac", "/etc/passwd"],
    &["rev", "/etc/group"],
    &["nl", "/etc/group"],
    &["head", "-n", "1", "/etc/passwd"],
    &["head", "-c", "5", "/etc/passwd"],
    &["tail", "-n", "2", "/etc/passwd"],
    &["tail", "-c", "+10", "/etc/group"],
    &["wc", "/etc/passwd"],
    &["wc", "-c", "/bin/busybox"],
    &["cksum", "/bin/busybox"],
    &["crc32", "/bin/busybox"],
    &["md5sum", "/bin/busybox"],
    &["sha1sum", "/bin/busybox"],
    &["sha256sum", "/bin/busybox"],
    &["sha512sum", "/bin/busybox", "/etc/passwd"],
    &["sort", "/etc/passwd"],
    &["sort", "-t:", "-k3", "-n", "-r", "/etc/passwd"],
    &["uniq", "-c", "/etc/group"],
    &["cut", "-d:", "-f1,3", "/etc/passwd"],
    &["grep", "root", "/etc/passwd"],
    &["grep", "-c", "nologin", "/etc/passwd"],
    &["grep", "-vE", "^(root|daemon)", "/etc/passwd"],
    &["grep", "absent", "/etc/passwd"],
    &["grep", "x", "/no/such/file"],
    &["sed", "s/root/ROOT/g;2d", "/etc/passwd"],
    &["sed", "-n", "/daemon/p;$=", "/etc/passwd"],
    &[
        "awk",
        "-F:",
        "{ n += $3; print $1, n } END { print NR }",
        "/etc/passwd",
    ],
    &[
        "awk",
        "BEGIN { for (i = 0; i < 5; i++) printf \"%d %s\\n\", i * i, substr(\"hello\", i) }",
    ],
    &[
        "awk",
        "BEGIN { printf \"%.6f %.3e %g\\n\", sqrt(2), exp(10), atan2(1, 1) }",
    ],
    &["od", "-c", "/etc/group"],
    &["od", "-An", "-tx1", "-N16", "/bin/busybox"],
    &["hexdump", "-C", "/etc/group"],
    &["xxd", "/etc/group"],
    &["base64", "/etc/passwd"],
    &["uuencode", "/etc/group", "x"],
    &["strings", "-n", "100", "/bin/busybox"],
    &["fold", "-w", "10", "/etc/passwd"],
    &["expand", "/etc/passwd"],
    &["paste", "/etc/passwd", "/etc/group"],
    &["comm", "/etc/passwd", "/etc/passwd"],
    &["cmp", "/etc/passwd", "/etc/group"],
    &["diff", "/etc/passwd", "/etc/group"],
    &["factor", "1234567890", "97"],
    &["cal", "2", "2024"],
    &["date", "-u", "-d", "@86400", "+%F %T"],
    &["env", "-i"],
    &["printenv"],
    &["readlink", "/bin"],
    &["readlink", "-f", "/bin/sh"],
    &["realpath", "/etc/../etc/./passwd"],
    &["test", "-f", "/etc/passwd"],
    &["[", "1", "-lt", "2", "]"],
    &["[", "1", "-lt", "2"],
    &["ls", "/no/such/file"],
    &["ls", "-d", "/etc/passwd", "/etc/group"],
    &["find", "/etc/passwd", "-name", "pass*"],
    &["sleep", "0"],
    &["usleep", "1000"],
    &["sum", "/bin/busybox"],
    &["dc", "-e", "2 3 ^ p 10 k 2 v p"],
    &["bc", "/dev/null"],
    &["tsort", "/dev/null"],
    &["split", "--help"],
    &["gzip", "-c", "/dev/null"],
    &["bzip2", "-c", "/dev/null"],
    &["dd", "if=/etc/passwd", "bs=7", "count=3", "status=none"],
    &[
        "dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=64k",
        "count=20",
        "status=none",
    ],
    &["yes", "--help"],
    &["nproc", "--help"],
    &["no_such_applet"],
];

/// Programs of GNU coreutils: dynamic, with libraries of their own.
const COREUTILS: &[&[&str]] = &[
    &["true"],
    &["false"],
    &["echo", "hello", "world"],
    &["printf", "%s %08.3f\\n", "x", "3.14159"],
    &["seq", "-w", "1", "10"],
    &["seq", "0", "0.1", "0.5"],
    &["factor", "18446744073709551557"],
    &["expr", "length", "hello"],
    &["basename", "-a", "/x/y", "/z"],
    &["cat", "-A", "/etc/passwd"],
    &["cat", "/no/such/file", "/etc"],
    &["head", "-n", "2", "/etc/passwd"],
    &["tail", "-n", "1", "/etc/passwd"],
    &["wc", "-lwc", "/etc/passwd"],
    &["md5sum", "/bin/ls"],
    &["sha256sum", "/bin/ls"],
    &["b2sum", "/bin/ls"],
    &["cksum", "/bin/ls"],
    &["base32", "/etc/group"],
    &["sort", "-r", "/etc/passwd"],
    &["cut", "-c1-4", "/etc/passwd"],
    &["tr", "--help"],
    &["od", "-x", "/etc/group"],
    &["nl", "/etc/passwd"],
    &["pr", "--help"],
    &["fmt", "/etc/passwd"],
    &["numfmt", "--to=iec", "123456789"],
    &["date", "-u", "-d", "@0", "-Iseconds"],
    &["id", "--version"],
    &["ls", "-d", "/etc/passwd"],
    &["ls", "/no/such/file"],
    &["readlink", "-e", "/bin/sh"],
    &["env", "-i", "A=b"],
    &["timeout", "--version"],
    &["test", "-d", "/etc"],
    &["join", "-t:", "/etc/passwd", "/etc/passwd"],
    &["tac", "/etc/passwd"],
    &["shuf", "-i", "1-1"],
];

/// Scripts for bash alone.
const BASH: &[&str] = &[
    "a=(one two 'three four'); echo ${#a[@]} ${a[2]} ${a[@]:1}; for x in \"${a[@]}\"; do echo \"<$x>\"; done",
    "declare -A m=([x]=1 [y]=2); echo ${m[x]} ${m[y]} ${#m[@]}",
    "x=hello; echo ${x^^} ${x/l/L} ${x//l/L} ${x:1:3} ${x: -2}",
    "[[ abc == a* && abc =~ ^(a)(b) ]] && echo ${BASH_REMATCH[2]}",
    "for ((i = 0; i < 5; i++)); do ((i % 2)) && continue; echo $i; done",
    "echo {a,b}{1..3} {5..1..2}",
    "read a b <<< 'one two three'; echo $b",
    "f() { local -n r=$1; r=set; }; f v; echo $v",
    "printf '%q %(%Y)T\\n' 'a b' 0; printf -v x '%03d' 7; echo $x",
    "mapfile -t l < /etc/group; echo ${#l[@]} ${l[0]}",
    "cat() { while IFS= read -r l; do echo \"$l\"; done; }; cat < <(echo from a process)",
    "echo a | { read x; echo $x; }; echo ${PIPESTATUS[@]}; true | false; echo ${PIPESTATUS[@]}",
    "set -o pipefail; false | true; echo $?",
    "coproc { read x; echo got $x; }; echo hi >&${COPROC[1]}; read y <&${COPROC[0]}; echo $y",
    "trap 'echo line $LINENO' ERR; false; echo after",
    "select x in a b; do echo $x; break; done <<< 2",
    "let x=2**10; echo $x $((16#ff)) $((x > 3 && x < 2000))",
    "shopt -s extglob; case aab in +(a)b) echo many;; esac",
    "exec {fd}< /etc/passwd; read -u $fd l; echo $l; exec {fd}<&-",
    "echo $BASH_SUBSHELL; (echo $BASH_SUBSHELL; (echo $BASH_SUBSHELL))",
    "kill -l 9; kill -l TERM; trap -l > /dev/null; echo $?",
    "ulimit -c; wait; jobs; echo ${#DIRSTACK[@]}",
    "[[ -t 0 ]]; echo $?; [[ -d /dev/stdin ]]; echo $?",
    "syntax ( error",
];

/// Scripts for other interpreters: the program, its name and the option of a script, and the script.
const INTERPRETERS: &[(&str, &str, &str, &str)] = &[
    (
        "lua5.4",
        "lua5.4",
        "-e",
        "print(1 // 0.0, 7 // 2, 2^53, 10 % 3, 'a' .. 1)",
    ),
    (
        "lua5.4",
        "lua5.4",
        "-e",
        "for w in ('one two'):gmatch('%a+') do io.write(w, ';') end print(#arg)",
    ),
    (
        "lua5.4",
        "lua5.4",
        "-e",
        "print(pcall(error, 'x')); local f <close> = io.open('/etc/passwd'); print(f:read('l'))",
    ),
    (
        "lua5.4",
        "lua5.4",
        "-e",
        "local c = coroutine.wrap(function(a) local b = coroutine.yield(a + 1); return b * 2 end) print(c(1), c(21))",
    ),
    (
        "lua5.4",
        "lua5.4",
        "-e",
        "t = {} for i = 1, 1e5 do t[i] = tostring(i) end collectgarbage() print(#table.concat(t))",
    ),
    (
        "lua5.4",
        "lua5.4",
        "-e",
        "print(io.open('/no/such/file')); os.exit(3)",
    ),
    ("lua5.4", "lua5.4", "-e", "error('failed')"),
    (
        "lua5.4",
        "lua5.4",
        "-e",
        "print(string.format('%5.2f|%x|%q', 3.14159, 255, 'a\\n'), os.time{year=2000, month=1, day=1, hour=12} > 0)",
    ),
    (
        "perl",
        "perl",
        "-e",
        "print join(',', map { $_ ** 2 } grep { $_ & 1 } 1 .. 9), \"\\n\"",
    ),
    (
        "perl",
        "perl",
        "-e",
        "my %h; $h{$_}++ for split //, 'mississippi'; print \"$_$h{$_}\" for sort keys %h; print \"\\n\"",
    ),
    (
        "perl",
        "perl",
        "-e",
        "$_ = 'a1b22'; while (/(\\d+)/g) { print pos, \" $1\\n\" }",
    ),
    (
        "perl",
        "perl",
        "-e",
        "my $p = fork; if (!$p) { exit 7 } waitpid $p, 0; print $? >> 8, \"\\n\"",
    ),
    (
        "perl",
        "perl",
        "-e",
        "pipe R, W; if (!fork) { close R; print W \"from the child\\n\"; exit } close W; print <R>; wait; print \"$?\\n\"",
    ),
    (
        "perl",
        "perl",
        "-e",
        "$SIG{ALRM} = sub { print \"alarm\\n\"; exit 4 }; alarm 1; select undef, undef, undef, 10; print \"late\\n\"",
    ),
    (
        "perl",
        "perl",
        "-e",
        "$SIG{USR1} = sub { print \"caught\\n\" }; kill USR1 => $$; print \"after\\n\"",
    ),
    (
        "perl",
        "perl",
        "-e",
        "open F, '<', '/no/such' or print \"$!\\n\"; die 'dead'",
    ),
    (
        "perl",
        "perl",
        "-e",
        "open F, '<', '/etc/passwd'; seek F, 5, 0; read F, my $x, 4; print \"$x \", tell F, \"\\n\"; print -s F, ' ', -d '/etc', \"\\n\"",
    ),
    (
        "perl",
        "perl",
        "-e",
        "eval { die { code => 5 } }; print $@->{code}, \"\\n\"; print sprintf('%.3e %05d %s', 12345.678, 42, 'x'), \"\\n\"",
    ),
    (
        "perl",
        "perl",
        "-e",
        "my @a = sort { $a <=> $b } map { ($_ * 7919) % 1009 } 1 .. 1000; print \"@a[0, 499, 999]\\n\"",
    ),
    ("perl", "perl", "-e", "kill KILL => $$"),
    ("make", "make", "--eval", "all:;@:"),
    (
        "make",
        "make",
        "--eval",
        "$(info $(words a b c) $(patsubst %.c,%.o,x.c y.c) $(sort c a b)) all:;",
    ),
    ("make", "make", "-n", "nothing"),
    ("make", "make", "--version", "-s"),
    (
        "sqlite3",
        "sqlite3",
        ":memory:",
        "select 1 + 1, 'text', x'00ff', null, 10 / 3.0",
    ),
    (
        "sqlite3",
        "sqlite3",
        ":memory:",
        "create table t (a integer primary key, b); insert into t (b) values ('x'), ('y'), ('z'); select * from t order by a desc; select count(*), max(b) from t",
    ),
    (
        "sqlite3",
        "sqlite3",
        ":memory:",
        "with recursive f(n, x) as (values (1, 1) union all select n + 1, x * (n + 1) from f where n < 15) select * from f",
    ),
    (
        "sqlite3",
        "sqlite3",
        ":memory:",
        "create table t (a unique); insert into t values (1); insert into t values (1)",
    ),
    (
        "sqlite3",
        "sqlite3",
        ":memory:",
        "begin; create table t (a); insert into t values (1); rollback; select * from t",
    ),
    (
        "sqlite3",
        "sqlite3",
        ":memory:",
        "select upper('abc'), substr('hello', 2, 3), strftime('%Y', 0, 'unixepoch'), printf('%05.1f', 2.25), json_extract('{\"a\": [1, 2]}', '$.a[1]')",
    ),
    ("sqlite3", "sqlite3", ":memory:", "select syntax error"),
];

fn cases(shell: &'static str, name: &str, scripts: &[&str]) -> Vec<Case> {
    let case = |script: &&str| Case::new(shell, &[name, "-c", script]);
    scripts.iter().map(case).collect()
}

#[test]
fn busybox() {
    let root = root(&["busybox-static"]);
    let mut cases = cases("/bin/busybox", "sh", SCRIPTS);
    cases.extend(APPLETS.iter().map(|words| Case::new("/bin/busybox", words)));
    compare(&root, &cases).expect_sound();
}

#[test]
fn dynamic_programs() {
    let root = root(&["bash", "coreutils", "dash"]);
    let mut cases = cases("/bin/dash", "dash", SCRIPTS);
    for words in COREUTILS {
        let path: &'static str = format!("/usr/bin/{}", words[0]).leak();
        cases.push(Case::new(path, words));
    }
    compare(&root, &cases).expect_sound();
}

#[test]
fn interpreters() {
    let root = root(&["bash", "lua5.4", "make", "perl-base", "sqlite3"]);
    let mut cases = cases("/bin/bash", "bash", SCRIPTS);
    cases.extend(self::cases("/bin/bash", "bash", BASH));
    for (program, name, option, script) in INTERPRETERS {
        let path: &'static str = format!("/usr/bin/{program}").leak();
        cases.push(Case::new(path, &[name, option, script]));
    }
    compare(&root, &cases).expect_sound();
}

/// Programs that sort and compress with four threads, which wait for each other by condition
/// variables.
const THREADED: &[&str] = &[
    "seq 40000 -1 1 > /tmp/n; sort --parallel=4 -S 300k /tmp/n | cksum; sort --parallel=4 -n /tmp/n | cksum",
    "seq 1 60000 > /tmp/n; xz -T4 --block-size=64KiB -1 -fk /tmp/n; cksum /tmp/n.xz; xz -T4 -dc /tmp/n.xz | cksum",
    "xz -T4 -t /tmp/n.xz; xz -T4 -dc /tmp/n.xz | tail -n 1; head -c 3000 /tmp/n.xz | xz -T4 -dc | cksum; xz -T4 -l /tmp/n; rm /tmp/n /tmp/n.xz",
];

#[test]
fn threads_on_four_cpus() {
    let root = root(&["bash", "coreutils", "xz-utils"]);
    let cases = cases("/bin/bash", "bash", THREADED);
    let run = compare_on(Boot::on(Board::Virt).cpus(4), &root, &cases);
    run.expect_sound();
    let started = run
        .trace
        .events()
        .filter(|event| matches!(event, Event::ThreadStart { .. }));
    assert!(started.count() > 8, "they did it alone");
}

#[test]
fn signals() {
    let root = root(&["bash", "coreutils", "dash"]);
    compare(&root, &cases("/bin/dash", "dash", SIGNALS));
    let root = self::root(&["busybox-static"]);
    compare(&root, &cases("/bin/busybox", "sh", SIGNALS));
}

/// Another user than root, the set-user-id bit, and a limit on files: `qemu-aarch64` would show this
/// machine's.
#[test]
fn users_and_limits() {
    let script = "umask 022; echo secret > /tmp/s; chmod 600 /tmp/s
        as() { su -s /bin/sh nobody -c \"$1\"; }
        as 'id -u; cat /tmp/s; echo x > /etc/x; rm /tmp/s; touch /tmp/mine; ls -n /tmp/mine'
        cp /usr/bin/id /tmp/id; chmod 4755 /tmp/id; as '/tmp/id -u; /tmp/id -ru'
        ulimit -f 1; head -c 5000 /dev/zero > /tmp/f; echo $?; wc -c < /tmp/f";
    let root = root(&["busybox-static", "coreutils"]);
    let boot = Boot::on(Board::Virt).lossless().append("terminal=");
    let case = Case::new("/bin/busybox", &["sh", "-c", script]);
    let (run, outcomes) = ours(boot.root(&root), &[case]);
    run.expect_sound();
    let [outcome] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    let lines: Vec<_> = outcome.stdout.lines().collect();
    let [user, owned, effective, real, status, size] = lines[..] else {
        panic!("{outcome:?}")
    };
    assert_eq!([user, effective, real], ["65534", "0", "65534"]);
    assert!(owned.contains(" 65534 "), "{owned}");
    assert_eq!([status, size], ["153", "512"]);
    for refused in [
        "/tmp/s': Permission",
        "/etc/x: Permission",
        "/tmp/s': Operation",
    ] {
        assert!(outcome.stderr.contains(refused), "{outcome:?}");
    }
}

/// `cowscope run --board BOARD --package busybox-static -- WORDS`, with this as standard input.
fn run(board: &str, words: &[&str], input: &[u8]) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut child = cowscope()
        .args([
            "run",
            "--output",
            folder.path().join("trace.cow").to_str().expect("UTF-8"),
            "--quiet",
            "--no-report",
            "--board",
            board,
            "--package",
            "busybox-static",
            "--",
        ])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cowscope runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let bytes = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().expect("cowscope ends");
    // A program need not read its input.
    let _ = writer.join().expect("the writer ends");
    output
}

#[test]
fn the_tools_streams_are_the_programs() {
    let root = root(&["busybox-static"]);
    assert!(root.join("bin/sh").exists());
    let script = "echo out; echo err >&2; cat; exit 3";
    let output = run(
        "virt",
        &["sh", "-c", script],
        b"in \xff\xff\xec\0 \"two\"\n",
    );
    assert_eq!(output.stdout, b"out\nin \xff\xff\xec\0 \"two\"\n");
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_long_input_arrives_whole() {
    let mut input = vec![0; 1 << 20];
    fastrand::Rng::with_seed(5).fill(&mut input);
    for board in ["virt", "raspi3b", "raspi4b"] {
        let output = run(board, &["cat"], &input);
        let came = output.stdout.len();
        assert!(output.stdout == input, "{board}: {came} bytes came");
        assert_eq!(
            (output.stderr.as_slice(), output.status.code()),
            (&b""[..], Some(0)),
            "{board}"
        );
    }
}
