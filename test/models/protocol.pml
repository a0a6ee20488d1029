/*
 * Grant, plan, issue, done and completion between a client, a shard, a dispatcher and two GPUs, while the shard and the
 * dispatcher die at any step and are rebuilt from the durable words. Checked: every request ends exactly once and
 * only after it ran once; no batch runs twice; no GPU holds more than two batches; at most one grant of the model is under
 * way; no lane overflows; a row is not used again while a device has its batch; when nothing moves any more, all
 * requests have ended and all tables are empty.
 *
 * Stands for:
 *   src/protocol/client-port.ts: #take           deadline, then generation, then the request record
 *   src/protocol/client-port.ts: commit          the request lane's head
 *   src/protocol/client-port.ts: #drainLane      a completion of another generation is skipped
 *   src/shards/shard.ts: #admit                  a request that was admitted by another way is skipped
 *   src/shards/shard.ts: #drainBatchDone         outcomes, then the row is free, then the tail
 *   src/shards/ledger.ts: endBatch               one outcome after the other
 *   src/shards/ledger.ts: commit                 completions, at the end of the poll
 *   src/shards/shard.ts: #answerGrants           answers are committed, then the grants are released
 *   src/shards/shard.ts: #answer                 row, answered, answer record
 *   src/shards/shard.ts: #close                  slots, number, state
 *   src/shards/shard.ts: #publish                stamp = answered; mailbox, then dirty bit
 *   src/dispatch/dispatcher.ts: poll             candidates, answers, ended batches, matching, commit
 *   src/dispatch/dispatcher.ts: #takeCandidates  the stamp must equal the grants issued
 *   src/dispatch/dispatcher.ts: #takeAnswer      the answer must be to the grant that the row holds
 *   src/dispatch/dispatcher.ts: #takeDone        the end must be of the batch that runs
 *   src/dispatch/dispatcher.ts: #grant           GPU row, issued, grant record
 *   src/dispatch/dispatcher.ts: #commit          issues, grants, ends
 *   src/dispatch/gpu-pool.ts: grant              two words of the GPU row
 *   src/dispatch/gpu-pool.ts: plan               the next batch, then the grant is over
 *   src/dispatch/gpu-pool.ts: ended              the running batch is over, the next one runs
 *   src/dispatch/gpu-pool.ts: #startNext         copied word by word
 *
 * Abstracted: one model, two slots that are used again, two batch rows. Time: which candidate is due, which GPU is
 * predicted free and whether waiting pays again are free choices; of two idle GPUs the lower is taken. Lanes are what
 * ring.pml shows them to be, with the smallest capacities that DESIGN.md allows; the mailbox is what mailbox.pml shows, the bells
 * what doorbell.pml: a role runs when there is something for it. Every store to a durable word, every commit and every
 * release is a step, and a role may die before each; steps on words that nobody else reads while the role lives are not
 * interleaved with the others. A replacement starts when the thread has ended, so it sees all stores. The client's stores
 * are seen in program order, which arm64 does not promise to a replacement that scans the slot table. Counters, cancels,
 * drops and failures are left out. Device and client live. The parts named "rebuild" stand for the recovery of a dead role.
 */
#define SLOTS 2
#define ROWS 2
#ifndef REQUESTS
#define REQUESTS 3
#endif
#ifndef DEATHS
#define DEATHS 2
#endif
#ifndef REFUSALS
#define REFUSALS 1
#endif
#define REFUSED 2          /* in place of a row */
#ifdef BROKEN_DEVICE_FORGETS
#define REMEMBERED 1
#else
#define REMEMBERED 2
#endif

/* ------------------------------------------------ durable words */

byte generation[SLOTS], deadline[SLOTS];                   /* client */
byte outcome[SLOTS];                                       /* shard: the generation that has one */
bool rowOpen[ROWS];
byte rowNumber[ROWS], rowSlots[ROWS];                      /* shard; the slots as a set of bits */
byte answered;                                             /* shard */
byte issued;                                               /* dispatcher */
bool granted[2];
byte grantNumber[2];
byte running[2], runNumber[2], next[2], nextNumber[2];         /* dispatcher; row + 1, 0 is none */
byte box, ownSlot;                                         /* the newest candidate, and the one taken last: stamp * 2 + some */
bool fresh, dirty;

typedef Lane { byte count; byte at[4] }
Lane requests, completions, grants, answers, issues, deviceDone, batchDone;

/* ------------------------------------------------ what only this proof knows */

byte deaths, refusals, ended;
byte runs[SLOTS];          /* how often the request in the slot ran */
hidden byte j;

#define pushTo(lane, most, value) \
  assert(lane.count < most); lane.at[lane.count] = value; lane.count++
#define takeFrom(lane, n) \
  j = 0; \
  do \
  :: j + n < lane.count -> lane.at[j] = lane.at[j + n]; j++ \
  :: else -> break \
  od; \
  do \
  :: j < lane.count -> lane.at[j] = 0; j++ \
  :: else -> break \
  od; \
  lane.count = lane.count - n; j = 0
#define isIn(lane, value) \
  ((lane.count > 0 && lane.at[0] == value) || (lane.count > 1 && lane.at[1] == value) \
  || (lane.count > 2 && lane.at[2] == value) || (lane.count > 3 && lane.at[3] == value))
#define moveAll(from, to, most) \
  k = 0; \
  do \
  :: k < from.count -> pushTo(to, most, from.at[k]); from.at[k] = 0; k++ \
  :: else -> break \
  od; \
  from.count = 0; k = 0

/* A step of a role that may die, or its death before it. */
#define STEP(what) if :: d_step { what } :: deaths < DEATHS -> deaths++; goto dead fi

/* ------------------------------------------------ client */

#define REQUEST(slot, generation) ((slot) * 8 + (generation))

active proctype Client() {
  byte wanted[SLOTS];      /* the generation whose completion is awaited, or the next to be used */
  bool used[SLOTS];
  byte submitted, s, v;
  d_step { wanted[0] = 1; wanted[1] = 1 };
  do
  :: submitted < REQUESTS && (!used[0] || !used[1]) ->
    d_step {
      if
      :: !used[0] -> s = 0
      :: else -> s = 1
      fi;
      used[s] = true; runs[s] = 0
    };
#ifdef BROKEN_GENERATION_FIRST
    generation[s] = wanted[s];
    deadline[s] = wanted[s];
#else
    d_step { deadline[s] = wanted[s]; generation[s] = wanted[s] };
#endif
    d_step { pushTo(requests, 4, REQUEST(s, wanted[s])); submitted++ }
  :: completions.count > 0 ->
    d_step {
      v = completions.at[0]; s = v / 8;
      if
      :: v % 8 == wanted[s] && used[s] -> assert(runs[s] == 1); used[s] = false; wanted[s]++; ended++
      :: else
      fi;
      takeFrom(completions, 1); v = 0; s = 0
    }
  :: ended == REQUESTS && completions.count == 0 -> break
  od
}

/* ------------------------------------------------ devices */

#define BATCH(number, gpu, row) ((number) * 4 + (gpu) * 2 + (row))

inline endHead(gpu) {
  d_step {
    v = held[gpu * 2]; row = v % 2;
    assert(rowOpen[row] && rowNumber[row] == v / 4);
    if
    :: rowSlots[row] & 1 -> runs[0]++; assert(runs[0] == 1)
    :: else
    fi;
    if
    :: rowSlots[row] & 2 -> runs[1]++; assert(runs[1] == 1)
    :: else
    fi;
    pushTo(deviceDone, 4, v);
    last[gpu * 2 + 1] = last[gpu * 2]; last[gpu * 2] = v / 4;
    held[gpu * 2] = held[gpu * 2 + 1]; held[gpu * 2 + 1] = 0; v = 0; row = 0
  }
}

active proctype Device() {
  byte held[4], last[4];   /* two per GPU: the batches it holds, the numbers that have ended */
  byte v, gpu, row;
  do
  :: issues.count > 0 ->
    d_step {
      v = issues.at[0]; gpu = (v / 2) % 2; row = v % 2;
      if
      :: held[gpu * 2] == v || held[gpu * 2 + 1] == v
      :: last[gpu * 2] == v / 4 || (REMEMBERED > 1 && last[gpu * 2 + 1] == v / 4)
      :: else ->
        assert(held[gpu * 2 + 1] == 0);
        assert(rowOpen[row] && rowNumber[row] == v / 4);
        if
        :: held[gpu * 2] == 0 -> held[gpu * 2] = v
        :: else -> held[gpu * 2 + 1] = v
        fi
      fi;
      takeFrom(issues, 1); v = 0; gpu = 0; row = 0
    }
  :: held[0] != 0 -> endHead(0)
  :: held[2] != 0 -> endHead(1)
  od
}

/* ------------------------------------------------ shard */

#define GRANT(number, gpu) ((number) * 2 + (gpu))
#define ANSWER(number, gpu, row) ((number) * 8 + (gpu) * 4 + (row))
#define ENDED(number, row) ((number) * 2 + (row))
#define CANDIDATE (answered * 2 + (queued != 0))
#define inOpenRow(slot) ((rowOpen[0] && (rowSlots[0] & (1 << slot))) || (rowOpen[1] && (rowSlots[1] & (1 << slot))))

/* Its completion again, unless it lies in the lane still. A slot of an open row gets its completion with the end of the row. */
inline rebuildSlot() {
  v = generation[i];
  if
  :: v == 0
#ifndef BROKEN_RESEND_IN_ROW
  :: v != 0 && inOpenRow(i) -> admitted[i] = v
  :: v != 0 && !inOpenRow(i) && outcome[i] == v ->
#else
  :: v != 0 && inOpenRow(i) && outcome[i] != v -> admitted[i] = v
  :: v != 0 && outcome[i] == v ->
#endif
#ifndef BROKEN_ADMIT_TWICE
    admitted[i] = v;
#endif
    if
#ifndef BROKEN_RESEND_ALL
    :: isIn(completions, REQUEST(i, v))
#endif
    :: else -> pushTo(ended_, 4, REQUEST(i, v))
    fi
  :: v != 0 && !inOpenRow(i) && outcome[i] != v ->
    assert(deadline[i] == v);
    admitted[i] = v; queued = queued | (1 << i)
  fi;
  v = 0; i++
}

inline admit() {
  v = requests.at[i];
  if
  :: v % 8 == generation[v / 8] && admitted[v / 8] != v % 8 ->
    assert(deadline[v / 8] == v % 8);
    admitted[v / 8] = v % 8; queued = queued | (1 << (v / 8))
  :: else
  fi;
  v = 0; i++
}

inline endSlot(slot) {
  if
  :: rowSlots[row] & (1 << slot) ->
    STEP(
      assert(runs[slot] == 1);
      outcome[slot] = generation[slot];
      pushTo(ended_, 4, REQUEST(slot, generation[slot]))
    )
  :: else
  fi
}

inline endRow() {
  d_step { v = batchDone.at[i]; row = v % 2 };
  if
#ifdef BROKEN_END_WITHOUT_NUMBER
  :: rowOpen[row] ->
#else
  :: rowOpen[row] && rowNumber[row] == v / 2 ->
#endif
#ifdef BROKEN_ROW_FREED_FIRST
    STEP(rowOpen[row] = false);
#endif
    endSlot(0);
    endSlot(1);
    STEP(rowOpen[row] = false; rowSlots[row] = 0; rowNumber[row] = 0)
  :: else
  fi;
  d_step { v = 0; row = 0; i++ }
}

#define answersHold(number) ((answers.count > 0 && answers.at[0] / 8 == number) || (answers.count > 1 && answers.at[1] / 8 == number))

/* Again from the table if it was answered, or its row is there; else a batch of all that waits or of one, or a refusal. */
inline close() {
  v = grants.at[i];
  if
  :: rowOpen[0] && rowNumber[0] == v / 2 -> row = 0
  :: rowOpen[1] && rowNumber[1] == v / 2 -> row = 1
  :: else -> row = REFUSED
  fi;
  again = (v / 2 <= answered);
  if
  :: row == REFUSED && !again && queued != 0 && (!rowOpen[0] || !rowOpen[1]) ->
    if
    :: refusals < REFUSALS -> refusals++
    :: batch = queued; row = rowOpen[0]
    :: queued == 3 -> batch = 1; row = rowOpen[0]
    fi
  :: else
  fi;
#ifdef BROKEN_ANSWER_BEFORE_ROW
  STEP(pushTo(answers, 2, ANSWER(v / 2, v % 2, row)));
#endif
  if
  :: batch != 0 ->
#ifdef BROKEN_STATE_FIRST
    STEP(rowOpen[row] = true);
#endif
    STEP(rowSlots[row] = batch; queued = queued & ~batch; batch = 0);
    STEP(rowNumber[row] = v / 2);
    STEP(rowOpen[row] = true)
  :: else
  fi;
#ifndef BROKEN_NOT_COUNTED
  STEP(answered = (v / 2 > answered -> v / 2 : answered))
#endif
}

/* Not again while the answer lies in the lane: deaths must not fill it. */
inline answer() {
  atomic { close() };
  d_step {
    if
#ifndef BROKEN_ANSWER_BEFORE_ROW
#ifndef BROKEN_ANSWER_AGAIN
    :: again && answersHold(v / 2)
#endif
    :: else -> pushTo(answers_, 2, ANSWER(v / 2, v % 2, row))
#else
    :: true
#endif
    fi;
    v = 0; row = 0; again = false; i++
  }
}

active proctype Shard() {
  byte queued, batch, admitted[SLOTS], published = 1;
  byte i, k, n, v, row;
  bool again;
  Lane ended_, answers_;   /* claimed, not committed */
  goto poll;
dead:
  skip;
  d_step {
    queued = 0; batch = 0; admitted[0] = 0; admitted[1] = 0; i = 0; k = 0; n = 0; v = 0; row = 0; again = false;
    published = 0;
    takeFrom(ended_, ended_.count);
    takeFrom(answers_, answers_.count)
  };
  do
  :: i < SLOTS -> STEP(rebuildSlot())
  :: else -> break
  od;
#ifdef BROKEN_NO_REPUBLISH
  published = CANDIDATE + 1;
#endif
  STEP(i = 0; moveAll(ended_, completions, 4));
poll:
  atomic {
    requests.count > 0 || batchDone.count > 0 || grants.count > 0 || published != CANDIDATE + 1;
    n = requests.count;
    do
    :: i < n -> STEP(admit())
    :: else -> break
    od;
    STEP(takeFrom(requests, n); i = 0; n = 0)
  };
  atomic {
    n = batchDone.count;
    do
    :: i < n -> endRow()
    :: else -> break
    od;
    i = 0;
    if
    :: n == 0 -> goto granting
    :: else
    fi
  };
  STEP(takeFrom(batchDone, n); n = 0);
granting:
  n = grants.count;
  do
  :: i < n -> answer()
  :: atomic { i == n && n == 0 -> goto publishing }
  :: atomic { i == n && n > 0 -> i = 0; break }
  od;
#ifdef BROKEN_GRANT_RELEASED_FIRST
  STEP(takeFrom(grants, n); n = 0);
  STEP(moveAll(answers_, answers, 2));
#else
  STEP(moveAll(answers_, answers, 2));
  STEP(takeFrom(grants, n); n = 0);
#endif
publishing:
  do
  :: atomic { published != CANDIDATE + 1 -> published = CANDIDATE + 1; STEP(box = CANDIDATE; fresh = true) };
    STEP(dirty = true)
  :: atomic { published == CANDIDATE + 1 && ended_.count > 0 -> STEP(moveAll(ended_, completions, 4)) }
  :: atomic { published == CANDIDATE + 1 && ended_.count == 0 -> goto poll }
  od
}

/* ------------------------------------------------ dispatcher */

#define mayGrant(gpu) (!granted[gpu] && next[gpu] == 0)

inline startNext(gpu) {
  STEP(running[gpu] = next[gpu]);
  STEP(runNumber[gpu] = nextNumber[gpu]);
  STEP(next[gpu] = 0; nextNumber[gpu] = 0)
}

inline takeCandidate() {
  if
  :: fresh -> STEP(ownSlot = box; box = 0; fresh = false);
#ifdef BROKEN_ANY_STAMP
    some = ownSlot % 2
#else
    if
    :: ownSlot / 2 == issued -> some = ownSlot % 2
    :: else
    fi
#endif
  :: else
  fi
}

inline takeAnswer() {
  d_step { v = answers.at[i]; gpu = (v / 4) % 2; row = v % 4 };
  if
  :: granted[gpu] && grantNumber[gpu] == v / 8 && row == REFUSED -> STEP(granted[gpu] = false)
  :: granted[gpu] && grantNumber[gpu] == v / 8 && row != REFUSED ->
    STEP(next[gpu] = row + 1);
    STEP(nextNumber[gpu] = v / 8);
    STEP(granted[gpu] = false);
    if
    :: running[gpu] == 0 -> startNext(gpu)
    :: else
    fi;
    d_step { pushTo(issues_, 4, BATCH(v / 8, gpu, row)) }
  :: else
  fi;
  d_step { v = 0; gpu = 0; row = 0; i++ }
}

#define isRunning(batch) (running[((batch) / 2) % 2] == (batch) % 2 + 1 && runNumber[((batch) / 2) % 2] == (batch) / 4)

/* The end is passed on even when the row speaks of it no more: the one who read it first may have died before its commit. */
inline takeDone() {
  if
  :: atomic { isRunning(deviceDone.at[i]) ->
    v = deviceDone.at[i]; gpu = (v / 2) % 2; row = v % 2;
    STEP(running[gpu] = 0; runNumber[gpu] = 0);
    if
    :: next[gpu] != 0 -> startNext(gpu)
    :: else
    fi;
    d_step { pushTo(ends_, 4, ENDED(v / 4, row)); v = 0; gpu = 0; row = 0; i++ }
  }
  :: else ->
    STEP(
#ifndef BROKEN_END_IGNORED
      v = deviceDone.at[i]; row = v % 2;
      if
#ifndef BROKEN_END_AGAIN
      :: isIn(batchDone, ENDED(v / 4, row))
#endif
      :: else -> pushTo(ends_, 4, ENDED(v / 4, row))
      fi;
      v = 0; row = 0;
#endif
      i++
    )
  fi
}

inline grant(gpu) {
  assert(!granted[0] && !granted[1] && grants.count == 0);
#ifdef BROKEN_MODEL_BEFORE_NUMBER
  STEP(granted[gpu] = true);
  STEP(grantNumber[gpu] = issued + 1);
#else
  STEP(grantNumber[gpu] = issued + 1);
  STEP(granted[gpu] = true);
#endif
  STEP(issued++);
  d_step { some = false; pushTo(grants_, 1, GRANT(issued, gpu)) }
}

inline rebuildGpu(gpu) {
#ifdef BROKEN_GPU_FREED
  STEP(granted[gpu] = false);
#endif
#ifndef BROKEN_ISSUED_NOT_RAISED
  STEP(issued = (granted[gpu] && grantNumber[gpu] > issued -> grantNumber[gpu] : issued));
#endif
  if
  :: granted[gpu] ->
    /* A plan half written is written again: its answer was not released. */
    STEP(next[gpu] = 0; nextNumber[gpu] = 0);
#ifndef BROKEN_GRANT_NOT_RESENT
    /* In this order: the shard commits the answer before it releases the grant. */
    STEP(lost = !isIn(grants, GRANT(grantNumber[gpu], gpu)));
    STEP(
      if
      :: lost && !answersHold(grantNumber[gpu]) -> pushTo(grants_, 1, GRANT(grantNumber[gpu], gpu))
      :: else
      fi; lost = false
    )
#endif
  :: else ->
    if
    :: next[gpu] != 0 && (running[gpu] == 0 || running[gpu] == next[gpu]) -> startNext(gpu)
    :: else
    fi
  fi;
#ifndef BROKEN_NOT_ISSUED_AGAIN
  STEP(
    if
    :: running[gpu] != 0 && !isIn(issues, BATCH(runNumber[gpu], gpu, running[gpu] - 1)) -> pushTo(issues_, 4, BATCH(runNumber[gpu], gpu, running[gpu] - 1))
    :: else
    fi;
    if
    :: next[gpu] != 0 && !isIn(issues, BATCH(nextNumber[gpu], gpu, next[gpu] - 1)) -> pushTo(issues_, 4, BATCH(nextNumber[gpu], gpu, next[gpu] - 1))
    :: else
    fi
  )
#endif
}

#define COMMITS \
  :: atomic { issues_.count > 0 -> STEP(moveAll(issues_, issues, 4)) } \
  :: atomic { issues_.count == 0 && grants_.count > 0 -> STEP(moveAll(grants_, grants, 2)) } \
  :: atomic { issues_.count == 0 && grants_.count == 0 && ends_.count > 0 -> STEP(moveAll(ends_, batchDone, ROWS)) }
#define committed (issues_.count == 0 && grants_.count == 0 && ends_.count == 0)

active proctype Dispatcher() {
  bool some, lost;
  byte i, k, n, v, gpu, row;
  Lane issues_, grants_, ends_;
  goto poll;
dead:
  skip;
  d_step {
    some = false; lost = false; i = 0; k = 0; n = 0; v = 0; gpu = 0; row = 0;
    takeFrom(issues_, issues_.count);
    takeFrom(grants_, grants_.count);
    takeFrom(ends_, ends_.count)
  };
  atomic { rebuildGpu(0) };
  atomic { rebuildGpu(1) };
  do
  COMMITS
  :: committed -> break
  od;
  /* The bit may be gone, and the candidate taken: the mailbox is looked at all the same, and what was taken last holds if its stamp does. */
#ifndef BROKEN_TRUST_BITS
  atomic { takeCandidate() };
#endif
#ifndef BROKEN_NO_OWN_SLOT
  if
  :: ownSlot / 2 == issued -> some = ownSlot % 2
  :: else
  fi;
#endif
poll:
  atomic {
    dirty || answers.count > 0 || deviceDone.count > 0 || (some && (mayGrant(0) || mayGrant(1)));
    if
    :: !dirty -> goto answering
    :: else -> STEP(dirty = false)
    fi
  };
  atomic { takeCandidate() };
answering:
  atomic {
    n = answers.count;
    do
    :: i < n -> takeAnswer()
    :: else -> break
    od;
    STEP(takeFrom(answers, n); i = 0; n = 0)
  };
  n = deviceDone.count;
  do
  :: i < n -> takeDone()
  :: i == n -> break
  od;
  atomic {
    i = 0;
    if
    :: some && mayGrant(0) -> grant(0)
    :: some && mayGrant(1) && (running[0] != 0 || !mayGrant(0)) -> grant(1)
    :: else
    fi
  };
#ifdef BROKEN_END_RELEASED_FIRST
  STEP(takeFrom(deviceDone, n); n = 0);
#endif
  do
  COMMITS
  :: atomic { committed -> STEP(takeFrom(deviceDone, n); n = 0); goto poll }
  od
}

/* ------------------------------------------------ when nothing moves any more */

active proctype Monitor() {
  timeout;
  assert(ended == REQUESTS);
  assert(!granted[0] && !granted[1] && running[0] == 0 && running[1] == 0 && next[0] == 0 && next[1] == 0);
  assert(!rowOpen[0] && !rowOpen[1] && issued == answered)
}
