/*
 * A mailbox and its dirty bit: no value is torn, none is older than the one before, the newest is always seen.
 *
 * Stands for:
 *   src/ringbuf/mailbox.ts: slot               the writer's slot, from the state word
 *   src/ringbuf/mailbox.ts: publish            load, compareExchange, at most one retry
 *   src/ringbuf/mailbox.ts: take               load, compareExchange while fresh
 *   src/ringbuf/dirty-bitmap.ts: mark          leaf, then root; a bit that is set needs no write
 *   src/ringbuf/dirty-bitmap.ts: collect       exchanges the root, then the leaf, each before what it stands for is read
 *   src/ringbuf/dirty-bitmap.ts: #putBack      leaf, then root, when the reader has no room
 *   src/shards/shard.ts: #publish              fill, publish, mark
 *   src/dispatch/dispatcher.ts: #takeCandidates  collect, then take
 *
 * Abstracted: one box whose value is two words, a bitmap of one leaf and a root. Plain stores wait in a buffer and reach
 * the memory in any order, at the latest before the thread's next atomic store or exchange. Each side may die once at every
 * step. The writer's replacement publishes its newest value again. The reader's takes the box without asking the
 * bit, and what lies in its own slot if there is nothing fresh.
 */
#define VALUES 3
#define WRITER(s) ((s) & 3)
#define MIDDLE(s) (((s) >> 2) & 3)
#define READER(s) (((s) >> 4) & 3)
#define FRESH 64

byte state = 36;           /* writer 0, middle 1, reader 2 */
byte memory[6];            /* three slots of two words */
byte buffer[6];
byte waiting;
byte bufferedState;        /* of the broken variant that publishes by a plain store */
#define STATE_WAITS 64
bool leaf, root;
byte newest;               /* what the writer's own queues say: durable */
byte seen;                 /* the newest value ever used: ghost */
byte known;                /* what the reader knows */
bool writerDied, readerDied;

active proctype StoreBuffer() {
  byte i;
end:
  do
  :: d_step { waiting & 63 ->
      i = 0;
      do
      :: (waiting & (1 << i)) == 0 -> i++
      :: else -> break
      od;
      memory[i] = buffer[i]; waiting = waiting & ~(1 << i); i = 0 }
  :: d_step { waiting & 42 -> /* an odd word first */
      i = 1;
      do
      :: (waiting & (1 << i)) == 0 -> i = i + 2
      :: else -> break
      od;
      memory[i] = buffer[i]; waiting = waiting & ~(1 << i); i = 0 }
  :: d_step { waiting & STATE_WAITS -> state = bufferedState; waiting = waiting & ~STATE_WAITS }
  od
}

#define plain(at, value) d_step { buffer[at] = value; waiting = waiting | (1 << (at)) }
/* Every step of the writer is one at which it may die. */
#define W(step) if :: step :: !writerDied -> writerDied = true; goto attach fi

inline mark() {
  /* A load sees past the buffer, an exchange empties it. */
#ifdef BROKEN_ROOT_FIRST
  W(root -> skip :: d_step { !root && waiting == 0 -> root = true });
  W(leaf -> skip :: d_step { !leaf && waiting == 0 -> leaf = true })
#else
  W(leaf -> skip :: d_step { !leaf && waiting == 0 -> leaf = true });
  W(root -> skip :: d_step { !root && waiting == 0 -> root = true })
#endif
}

active proctype Writer() {
  byte mine, read, attempts, life;
  bool again;
  goto begin;
attach:
  waiting == 0; /* the thread has ended */
  again = (newest > 0);
begin:
  do
  :: again || newest < VALUES ->
    if
    :: again -> again = false
    :: else -> newest++
    fi;
    W(mine = WRITER(state));
    W(plain(mine * 2, newest));
    W(plain(mine * 2 + 1, newest));
#ifdef BROKEN_MARK_FIRST
    mark();
#endif
    attempts = 0;
    do
    :: W(read = state);
       attempts++;
       assert(attempts <= 2);
#if defined(BROKEN_BLIND_PUBLISH)
       W(d_step { waiting == 0 -> state = MIDDLE(read) | (WRITER(read) << 2) | (read & 48) | FRESH });
       break
#elif defined(BROKEN_PLAIN_PUBLISH)
       W(d_step { (waiting & STATE_WAITS) == 0 -> bufferedState = MIDDLE(read) | (WRITER(read) << 2) | (read & 48) | FRESH; waiting = waiting | STATE_WAITS });
       break
#else
       if
       :: d_step { waiting == 0 && state == read -> state = MIDDLE(read) | (WRITER(read) << 2) | (read & 48) | FRESH }; break
       :: d_step { waiting == 0 && state != read -> skip }
       :: !writerDied -> writerDied = true; goto attach
       fi
#endif
    od;
#ifndef BROKEN_MARK_FIRST
    mark();
#endif
    skip
  :: newest == VALUES && !again -> break
  od
}

#define R(step) if :: step :: !readerDied -> readerDied = true; goto restart fi

inline use(from) {
  R(value = memory[(from) * 2]);
  R(d_step { assert(memory[(from) * 2 + 1] == value); assert(value >= seen); seen = value; known = value })
}

inline take() {
#ifdef BROKEN_TAKE_WITHOUT_SWAP
  R(read = state);
  if
  :: read & FRESH -> R(d_step { state = state & ~FRESH }); use(MIDDLE(read))
  :: else -> taken = false
  fi
#else
  R(read = state);
  taken = true;
  do
#ifdef BROKEN_STALE_TAKE
  :: true ->
#else
  :: read & FRESH ->
#endif
    if
    :: d_step { state == read -> state = WRITER(read) | (READER(read) << 2) | (MIDDLE(read) << 4) }; use(MIDDLE(read)); break
    :: d_step { state != read -> read = state }
    :: !readerDied -> readerDied = true; goto restart
    fi
#ifndef BROKEN_STALE_TAKE
  :: else -> taken = false; break
#endif
  od
#endif
}

active proctype Reader() {
  byte read, value;
  bool taken;
  goto poll;
restart:
  known = 0;
#ifndef BROKEN_TRUST_BITS
  take();
  if
#ifndef BROKEN_NO_OWN_SLOT
  :: !taken && memory[READER(read) * 2] > 0 -> use(READER(read))
#endif
  :: else
  fi;
#endif
poll:
end:
  do
  :: root ->
    R(root = false);
    if
    :: leaf -> /* no room for this word: put it back, leaf first */
      R(root = true)
    :: true
      if
      :: leaf ->
#ifndef BROKEN_CLEAR_AFTER_READ
        R(leaf = false);
#endif
        take();
#ifdef BROKEN_CLEAR_AFTER_READ
        R(leaf = false)
#endif
      :: !leaf
      fi
    fi
  od
}

active proctype Monitor() {
  timeout;
  assert(known == VALUES)
}
