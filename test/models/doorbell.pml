/*
 * The doorbell: whatever was published before a ring is seen, though the owner sleeps without a time limit.
 *
 * Stands for:
 *   src/ringbuf/doorbell.ts: ring                    load, compareExchange, notify
 *   src/ringbuf/doorbell.ts: prepare                 the store of SLEEPING
 *   src/ringbuf/doorbell.ts: cancel                  the store of AWAKE when the second look found something
 *   src/ringbuf/doorbell.ts: park                    Atomics.wait: compares and lies down in one step
 *   src/scheduler/scheduler.worker.ts: runScheduler  poll, prepare, poll once more, park
 *   src/scheduler/client.ts: pump                    the same on the client's side
 *   src/shards/shard.ts: #answerGrants               publish, then ring
 *   src/dispatch/dispatcher.ts: #commit              publish, then ring
 *
 * Abstracted: two threads ring twice each; a source is one counter of each. A plain store (in the broken variants) waits
 * in a buffer until the thread's next atomic store; a plain or atomic load overtakes it. One park may end by its time
 * limit, at any moment.
 */
#define AWAKE 0
#define SLEEPING 1
#define RINGS 2

byte state = AWAKE;
bool lying;               /* the owner is in Atomics.wait's list */
byte published[2], taken[2];
byte buffered[2];         /* plain stores of published that have not reached the memory */
bool prepareWaits;        /* a plain store of SLEEPING that has not */
bool limitPassed;

#define found (published[0] != taken[0] || published[1] != taken[1])

inline look() {
  d_step { taken[0] = published[0]; taken[1] = published[1] }
}

active proctype Owner() {
end:
  do
  :: found -> look()
  :: !found ->
#ifdef BROKEN_PLAIN_PREPARE
    prepareWaits = true;
#else
    state = SLEEPING;
#endif
#ifndef BROKEN_NO_SECOND_LOOK
    if
    :: found -> look(); d_step { prepareWaits = false; state = AWAKE }; goto end
    :: !found
    fi;
#endif
    /* Atomics.wait is an atomic access: a plain store comes before it. */
    atomic {
      if
      :: prepareWaits -> prepareWaits = false; state = SLEEPING
      :: else
      fi;
      if
#ifdef BROKEN_BLIND_WAIT
      :: lying = true
#else
      :: state == SLEEPING -> lying = true
      :: else
#endif
      fi
    };
endPark:
    if
    :: !lying
    :: !limitPassed -> d_step { limitPassed = true; lying = false }
    fi;
    state = AWAKE
  od
}

inline publish() {
#ifdef BROKEN_PLAIN_PUBLISH
  buffered[_pid - 1]++
#else
  published[_pid - 1]++
#endif
}

inline flush() {
  d_step { published[_pid - 1] = published[_pid - 1] + buffered[_pid - 1]; buffered[_pid - 1] = 0 }
}

inline ring() {
  if
  :: state == AWAKE
#ifdef BROKEN_NOTIFY_FIRST
  :: state == SLEEPING -> flush(); lying = false; state = AWAKE
#else
  :: state == SLEEPING ->
    atomic {
      flush();
      if
      :: state == SLEEPING -> state = AWAKE; won = true
      :: else
      fi
    };
    if
    :: won -> d_step { lying = false; won = false }
    :: else
    fi
#endif
  fi
}

active [2] proctype Ringer() {
  byte k;
  bool won;
  do
  :: k < RINGS ->
#ifdef BROKEN_RING_FIRST
    ring();
    publish();
#else
    publish();
    ring();
#endif
    k++
  :: else -> break
  od;
  flush()
}

active proctype Monitor() {
  timeout;
  assert(taken[0] == RINGS && taken[1] == RINGS)
}
