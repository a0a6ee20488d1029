/*
 * The single-producer single-consumer ring: nothing is read before it is whole, nothing is overwritten before it is read,
 * nothing is lost or read out of order, whoever dies and is replaced.
 *
 * Stands for:
 *   src/ringbuf/spsc-ring.ts: claim        the writer's own limit, looked up again when it is used up
 *   src/ringbuf/spsc-ring.ts: commit       one store of the head for all that was claimed
 *   src/ringbuf/spsc-ring.ts: abort        as a replacement does: what was not committed is forgotten
 *   src/ringbuf/spsc-ring.ts: available    the reader's own head, looked up again when it is used up
 *   src/ringbuf/spsc-ring.ts: word         reading, one word at a time
 *   src/ringbuf/spsc-ring.ts: release      one store of the tail for all that was read
 *
 * Abstracted: 2 records of 2 words, positions of 3 bits (they wrap as those of 32 bits do). Plain stores wait in a
 * buffer and reach the memory in any order, at the latest before the thread's next atomic store. Loads happen in
 * program order: an atomic load holds back all that come after it, the store of the tail all that came before. Each
 * side may die once at every step; its replacement starts from the shared positions when the buffer is empty.
 */
#define CAPACITY 2
#define RECORDS 5
#define WRAP 7
#define FROM 6 /* the first position, so that positions wrap */

byte head = FROM, tail = FROM;
byte memory[4]; /* CAPACITY records of 2 words */
byte buffer[4];
byte waiting;          /* which words of the buffer have not reached the memory, and HEAD_WAITS */
byte bufferedHead;
#define HEAD_WAITS 16
byte deliveredCount;   /* records released */
bool writerDied, readerDied;

#define plain(at, value) d_step { buffer[at] = value; waiting = waiting | (1 << (at)) }

active proctype StoreBuffer() {
end:
  do
  :: d_step { waiting & 1 -> memory[0] = buffer[0]; waiting = waiting & ~1 }
  :: d_step { waiting & 2 -> memory[1] = buffer[1]; waiting = waiting & ~2 }
  :: d_step { waiting & 4 -> memory[2] = buffer[2]; waiting = waiting & ~4 }
  :: d_step { waiting & 8 -> memory[3] = buffer[3]; waiting = waiting & ~8 }
  :: d_step { waiting & HEAD_WAITS -> head = bufferedHead; waiting = waiting & ~HEAD_WAITS }
  od
}

/* The value of a record is its number; the writer's second life writes 16 more, so that a mixture shows. */
active proctype Writer() {
  byte position, limit, number, life;
  bool claimed;
attach:
  waiting == 0;
  position = head;
  limit = (tail + CAPACITY) & WRAP;
  number = (position - FROM) & WRAP;
  claimed = false;
  do
  :: !writerDied -> d_step { writerDied = true; life = 16 }; goto attach
  :: claimed -> /* commit */
    if
#if defined(BROKEN_PLAIN_HEAD)
    :: d_step { bufferedHead = position; waiting = waiting | HEAD_WAITS }
#elif defined(BROKEN_HEAD_FIRST)
    :: skip
#else
    :: d_step { waiting == 0 -> head = position }
#endif
    fi;
    claimed = false
  :: number < RECORDS -> /* claim and fill */
    if
    :: position == limit ->
#ifdef BROKEN_LIMIT
      limit = (tail + CAPACITY + 1) & WRAP;
#else
      limit = (tail + CAPACITY) & WRAP;
#endif
      if
      :: position == limit && claimed -> goto turn /* commit what there is */
      :: position == limit && !claimed -> ((tail + CAPACITY) & WRAP) != position; goto turn
      :: else
      fi
    :: else
    fi;
#ifdef BROKEN_HEAD_FIRST
    d_step { waiting == 0 -> head = (position + 1) & WRAP };
#endif
    plain((position & (CAPACITY - 1)) * 2, number + life);
    if
    :: true
    :: !writerDied -> d_step { writerDied = true; life = 16 }; goto attach
    fi;
    plain((position & (CAPACITY - 1)) * 2 + 1, number + life);
    d_step { position = (position + 1) & WRAP; number++; claimed = true };
turn:
    skip
  :: number == RECORDS && !claimed -> break
  od
}

active proctype Reader() {
  byte position, known, count, k, first, expected;
attach:
  position = tail;
  known = head;
  do
  :: !readerDied -> readerDied = true; goto attach
  :: deliveredCount == RECORDS -> break
  :: deliveredCount < RECORDS ->
    if
    :: known == position -> known = head
    :: else
    fi;
    count = (known - position) & WRAP;
    assert(count <= CAPACITY);
    if
    :: count == 0 -> head != position; goto next
    :: count > 1 -> count = 1 /* a smaller bulk */
    :: count > 0
    fi;
#ifdef BROKEN_RELEASE_FIRST
    tail = (position + count) & WRAP;
#endif
    k = 0;
    do
    :: !readerDied -> readerDied = true; goto attach
    :: k < count ->
      expected = (deliveredCount + k);
      first = memory[((position + k) & (CAPACITY - 1)) * 2];
      assert((first & 15) == expected);
      assert(memory[((position + k) & (CAPACITY - 1)) * 2 + 1] == first);
      k++
    :: k == count -> break
    od;
    atomic { position = (position + count) & WRAP; tail = position; deliveredCount = deliveredCount + count };
next:
    skip
  od
}

active proctype Monitor() {
  timeout;
  assert(deliveredCount == RECORDS && head == tail && head == ((FROM + RECORDS) & WRAP))
}
