// Locks ranges of a file as it is told, by java.nio's FileLock.
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.RandomAccessFile;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.util.ArrayList;
import java.util.List;

public class Locks {
    public static void main(String[] arguments) throws IOException {
        BufferedReader words = new BufferedReader(new InputStreamReader(System.in));
        List<FileLock> held = new ArrayList<>();
        try (RandomAccessFile file = new RandomAccessFile(arguments[0], "rw")) {
            FileChannel channel = file.getChannel();
            System.out.println("ready");
            for (String line = words.readLine(); line != null; line = words.readLine()) {
                // try|lock shared|exclusive START LENGTH, or unlock
                String[] word = line.split(" ");
                if (word[0].equals("unlock")) {
                    for (FileLock lock : held) {
                        lock.release();
                    }
                    held.clear();
                    System.out.println("unlocked");
                    continue;
                }
                boolean shared = word[1].equals("shared");
                long start = Long.parseLong(word[2]);
                long length = Long.parseLong(word[3]);
                FileLock lock = word[0].equals("try")
                        ? channel.tryLock(start, length, shared)
                        : channel.lock(start, length, shared);
                if (lock != null) {
                    held.add(lock);
                }
                System.out.println(lock == null ? "refused" : "locked");
            }
        }
    }
}
